//! Random edits of a workspace.

use super::model::{ConfigAt, FORMS, Form, Include, MANNERS, Manner, Model, Module, Place, helper_of, script};
use super::random::Random;

/// How files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Save {
    /// Over what is there.
    Over,
    /// Beside it, and renamed.
    Rename,
    /// After what is there was removed.
    Anew,
    /// With a time of long ago, as a restored file has it.
    Old,
}

/// Changes a model; says what was done.
pub fn edit(random: &mut Random, model: &mut Model, before: &[Model]) -> String {
    loop {
        if let Some(done) = one(random, model, before) {
            return done;
        }
    }
}

fn one(random: &mut Random, model: &mut Model, before: &[Model]) -> Option<String> {
    if let Some(at) = model.away.take() {
        return Some(format!("the folder of {} comes back", model.crates[at].name));
    }
    if let Some(at) = model.crates.iter().position(|it| it.broken.is_some()) {
        model.crates[at].broken = None;
        return Some(format!("{} is mended", model.crates[at].name));
    }
    for at in 0..model.crates.len() {
        if let Some(include) = model.crates[at].includes.iter_mut().find(|include| include.missing) {
            include.missing = false;
            return Some(format!("{} comes", include.path));
        }
    }
    let at = random.below(model.crates.len());
    let value = random.number() % 1000;
    let deny = model.crates[at].denies && model.crates[at].place == Place::Member;
    let silent = model.crates.iter().any(|it| it.script.as_ref().is_some_and(|it| it.manner == MANNERS[0]));
    let one = &mut model.crates[at];
    let name = one.name.clone();
    let git = one.place == Place::Git;
    let plain = !git && !one.is_macro;
    Some(match random.below(35) {
        0 | 1 if !git => {
            one.value = value;
            format!("a constant of {name}")
        }
        2 if !git => {
            one.generic = value;
            format!("a generic function of {name}")
        }
        3 | 4 if plain && !one.modules.is_empty() => {
            let count = one.modules.len();
            let module = &mut one.modules[random.below(count)];
            module.value = value;
            format!("the module {} of {name} ({:?})", module.name, module.form)
        }
        5 if plain && one.modules.iter().any(|module| !module.within.is_empty()) => {
            let module = one.modules.iter_mut().find(|module| !module.within.is_empty())?;
            module.within[0].value = value;
            format!("the module in {} of {name}", module.name)
        }
        6 if plain && !one.modules.is_empty() => {
            let count = one.modules.len();
            let module = &mut one.modules[random.below(count)];
            module.form = *random.one(&FORMS);
            if !matches!(module.form, Form::File | Form::Folder) {
                module.within.clear();
            }
            format!("the module {} of {name} becomes {:?}", module.name, module.form)
        }
        7 if plain && one.modules.len() < 4 => {
            let new = format!("n{value}");
            one.modules.push(Module { name: new, form: *random.one(&FORMS), value, target: 0, within: Vec::new() });
            format!("a new module of {name}")
        }
        8 if plain && one.modules.len() > 1 => {
            one.modules.pop();
            format!("a module of {name} goes")
        }
        9 if plain => {
            let module =
                one.modules.iter_mut().find(|module| matches!(module.form, Form::LinkedFile | Form::LinkedFolder))?;
            module.target = 1 - module.target;
            module.value = value;
            format!("the link of {name}'s module {} leads elsewhere", module.name)
        }
        10 if plain && !one.includes.is_empty() => {
            one.includes[0].text = value;
            format!("what {name} includes ({})", one.includes[0].path)
        }
        11 if plain && one.includes.len() < 3 => {
            let path = *random.one(&["later.txt", "deep/later.txt", "../later b.txt", "../../later.txt"]);
            if one.includes.iter().any(|include| include.path == path) {
                return None;
            }
            let missing = random.chance(30);
            one.includes.push(Include { path: path.to_owned(), text: value, missing });
            format!("{name} includes {path}{}", if missing { ", which is not there" } else { "" })
        }
        12 if plain && one.includes.len() > 1 => {
            one.includes.pop();
            format!("{name} includes less")
        }
        13 | 14 if one.script.is_some() => {
            let script = one.script.as_mut()?;
            if script.manner == Manner::Folder && random.chance(50) {
                script.more = !script.more;
                return Some(format!("one more file for {name}'s script: {}", script.more));
            }
            script.input = value;
            format!("the input of {name}'s script ({:?})", script.manner)
        }
        15 => {
            model.shared = value;
            "the file that scripts share".to_owned()
        }
        16 if one.script.is_some() => {
            one.script.as_mut()?.own = value;
            format!("the script of {name}")
        }
        17 if plain && at < 3 => {
            one.script = if one.script.is_some() { None } else { Some(script(random, helper_of(at))) };
            format!("{name} has {} script", if one.script.is_some() { "a" } else { "no" })
        }
        18 if !git => {
            one.extra = !one.extra;
            format!("a feature of {name} is {}", one.extra)
        }
        19 if !git => {
            one.version = value;
            format!("the version of {name}")
        }
        20 if !git => {
            one.edition = *random.one(&[2018, 2021, 2024]);
            format!("{name} is of edition {}", one.edition)
        }
        21 if !git => {
            one.denies = !one.denies;
            format!("{name} {} the workspace's lints", if one.denies { "has" } else { "has not" })
        }
        22 if git => {
            one.commit = 1 - one.commit;
            format!("another tag of {name}")
        }
        23 => {
            model.config = *random.one(&[ConfigAt::Nowhere, ConfigAt::Root, ConfigAt::Parent]);
            format!("the config is {:?}", model.config)
        }
        24 => {
            model.config_value = value;
            "a value in the config".to_owned()
        }
        25 => {
            model.asserting = !model.asserting;
            "the profile".to_owned()
        }
        26 if model.patched.is_some() => {
            model.patched = Some(value);
            "the patched crate".to_owned()
        }
        27 if !git => {
            let mut kinds = vec!["syntax"];
            if plain {
                kinds.extend(["type", "module"]);
            }
            if deny && plain {
                kinds.push("lint");
            }
            one.broken = Some(*random.one(&kinds));
            format!("{name} is broken: {:?}", one.broken)
        }
        28 if at > 0 && !git => {
            model.away = Some(at);
            format!("the folder of {name} goes away")
        }
        29 if !silent => {
            model.noise = value + 1;
            "files that nobody reads".to_owned()
        }
        30 | 31 if before.len() > 2 => {
            let back = 1 + random.below(before.len().min(6));
            *model = before[before.len() - back].clone();
            format!("{back} edits are taken back")
        }
        32 if at == 0 || at == 4 => {
            let needed = if at == 0 { 3 } else { 5 };
            match one.needs.iter().position(|(on, _)| *on == needed) {
                Some(found) => drop(one.needs.remove(found)),
                None => one.needs.push((needed, None)),
            }
            format!("{name} depends on {}", if one.needs.len() > 1 { "more" } else { "less" })
        }
        34 => {
            model.resolver = 1 + value % 3;
            format!("the resolver is {}", model.resolver)
        }
        33 if at == 1 => {
            let called = &mut one.needs[0].1;
            *called = if called.is_some() { None } else { Some("renamed".to_owned()) };
            format!("{name} calls a dependency {called:?}")
        }
        _ => return None,
    })
}

/// How the next files are saved.
pub fn save(random: &mut Random) -> Save {
    *random.one(&[Save::Over, Save::Over, Save::Rename, Save::Rename, Save::Anew, Save::Old])
}
