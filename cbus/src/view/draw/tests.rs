//! What the view looks like, on terminals of several sizes.

use controllerbus_api::proto::{Config, Directive, Generation, LogLine, Plugin, Timeline};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw;
use crate::problems::{Kind, Problem, Tested, of_text};
use crate::view::keys::{Want, press};
use crate::view::model::{Shown, natural};
use crate::view::ui::{Part, Ui};

/// The screen, a line each.
fn drawn(shown: &Shown, ui: &mut Ui, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, shown, ui)).expect("drawing");
    let buffer = terminal.backend().buffer().clone();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

fn plugin(id: &str) -> Plugin {
    let timeline =
        Timeline { edit_to_live_ms: Some(412.0), build_ms: 380.0, verify_ms: 2.0, load_ms: 20.0, swap_ms: 1.0 };
    let serving =
        Generation { number: 7, state: "serving".to_owned(), timeline: Some(timeline), ..Generation::default() };
    Plugin {
        id: id.to_owned(),
        state: "serving".to_owned(),
        version: "0.1.0".to_owned(),
        generations: vec![serving],
        ..Plugin::default()
    }
}

fn error(number: usize) -> String {
    format!(
        "error[E0425]: cannot find value `no{number}` in this scope\n --> src/lib.rs:{number}:5\n  |\n{number} | no{number}\n  | ^^^\n\n"
    )
}

/// Twelve plugins, of which these are broken.
fn twelve(broken: &[usize]) -> Shown {
    let mut shown = Shown::new("cbus dev", "many");
    shown.awaited = (1..=12).map(|at| format!("c{at}")).collect();
    for at in 1..=12 {
        let mut made = plugin(&format!("c{at}"));
        if broken.contains(&at) {
            made.error = error(at);
        }
        shown.plugins.push(made);
        shown.configs.push(Config {
            key: format!("k{at}"),
            config_id: format!("id{at}"),
            state: "running".to_owned(),
            controller: at as u64,
            ..Config::default()
        });
        shown.add_lines([LogLine {
            level: "INFO".to_owned(),
            target: "cbus".to_owned(),
            message: format!("line {at}"),
            ..LogLine::default()
        }]);
    }
    shown.arrange();
    shown
}

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

#[test]
fn every_broken_plugin_of_twelve_is_seen_on_a_small_terminal() {
    for broken in [&[7, 8, 9][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &[12]] {
        let shown = twelve(broken);
        let screen = drawn(&shown, &mut Ui::new(None), (80, 24));
        for at in broken {
            let row = screen.lines().find(|line| line.starts_with(&format!("c{at} "))).unwrap_or_default();
            assert!(row.contains("serving (last edit failed)"), "c{at}:\n{screen}");
            assert!(row.contains("error[E0425]"), "c{at} says what is wrong:\n{screen}");
        }
        assert!(screen.contains(&format!("Compiler: {} error", broken.len())), "{screen}");
        assert!(screen.contains(&format!("cannot find value `no{}`", broken[0])), "the first error:\n{screen}");
        let seen = screen.lines().filter(|line| line.starts_with('c') && line.contains("serving")).count();
        let rest = if seen < 12 { format!("{} more below", 12 - seen) } else { "c12".to_owned() };
        assert!(screen.contains(&rest), "the others are counted:\n{screen}");
        assert!(screen.contains("line 12"), "the newest line:\n{screen}");
    }
}

#[test]
fn a_large_terminal_has_room_for_all_of_it() {
    let screen = drawn(&twelve(&[3]), &mut Ui::new(None), (200, 50));
    for at in 1..=12 {
        assert!(screen.lines().any(|line| line.starts_with(&format!("c{at} "))), "c{at}:\n{screen}");
        assert!(screen.lines().any(|line| line.starts_with(&format!("k{at} "))), "k{at}:\n{screen}");
    }
    assert!(!screen.contains("more below"), "{screen}");
    assert!(screen.contains("live in 412 ms: build 380 ms, verify 2.0 ms, load 20 ms, swap 1.0 ms"), "{screen}");
}

#[test]
fn forty_errors_are_counted_and_scrolled_through_without_the_mouse() {
    let mut shown = Shown::new("cbus dev", "one");
    let mut broken = plugin("one");
    broken.error = (1..=41).map(error).collect();
    shown.plugins.push(broken);
    shown.arrange();
    let mut ui = Ui::new(None);
    let screen = drawn(&shown, &mut ui, (80, 24));
    assert!(screen.contains("Compiler: 41 errors in one") && screen.contains("more below"), "{screen}");
    assert!(screen.contains("`no1`"), "{screen}");
    let mut seen = [false; 42];
    for _ in 0..60 {
        let screen = drawn(&shown, &mut ui, (80, 24));
        (1..=41).for_each(|at| seen[at] |= screen.contains(&format!("`no{at}`")));
        assert_eq!(press(key(KeyCode::PageDown), &mut ui, &shown), Want::Nothing);
    }
    assert!(seen[1..].iter().all(|seen| *seen), "each of them comes into sight: {seen:?}");
    let screen = drawn(&shown, &mut ui, (80, 24));
    assert!(screen.contains("41 | no41") && screen.contains("more above"), "the end:\n{screen}");
    press(key(KeyCode::Home), &mut ui, &shown);
    assert!(drawn(&shown, &mut ui, (80, 24)).contains("`no1`"));
    // As large as it can be.
    let rows = |screen: &str| screen.lines().filter(|line| line.contains('|') || line.contains("error")).count();
    let before = rows(&drawn(&shown, &mut ui, (80, 24)));
    press(key(KeyCode::Enter), &mut ui, &shown);
    assert!(rows(&drawn(&shown, &mut ui, (80, 24))) > before);
}

#[test]
fn parts_are_chosen_and_scrolled_by_keys() {
    let shown = twelve(&[]);
    let mut ui = Ui::new(None);
    assert_eq!(ui.active(&shown), Part::Lower);
    press(key(KeyCode::Tab), &mut ui, &shown);
    assert_eq!(ui.active(&shown), Part::Plugins);
    for _ in 0..11 {
        press(key(KeyCode::Down), &mut ui, &shown);
    }
    let screen = drawn(&shown, &mut ui, (80, 24));
    assert!(screen.lines().any(|line| line.starts_with("c12 ")), "it is followed:\n{screen}");
    assert_eq!(press(key(KeyCode::Char('r')), &mut ui, &shown), Want::Rebuild(Some("c12".to_owned())));
    press(key(KeyCode::Char('b')), &mut ui, &shown);
    let screen = drawn(&shown, &mut ui, (80, 24));
    assert!(screen.contains("Roll c12 back to the generation before? y yes"), "{screen}");
    assert_eq!(press(key(KeyCode::Char('n')), &mut ui.clone(), &shown), Want::Nothing);
    assert_eq!(press(key(KeyCode::Char('y')), &mut ui, &shown), Want::RollBack("c12".to_owned()));
    press(key(KeyCode::Tab), &mut ui, &shown);
    press(key(KeyCode::End), &mut ui, &shown);
    let screen = drawn(&shown, &mut ui, (80, 24));
    assert!(screen.lines().any(|line| line.starts_with("k12 ")), "{screen}");
    assert!(screen.contains("more above"), "{screen}");
    press(key(KeyCode::Esc), &mut ui, &shown);
    assert_eq!(press(key(KeyCode::Char('r')), &mut ui, &shown), Want::Rebuild(None));
}

#[test]
fn help_covers_the_view_until_a_key_and_names_every_key() {
    let shown = twelve(&[1]);
    let mut ui = Ui::new(None);
    press(key(KeyCode::Char('?')), &mut ui, &shown);
    let screen = drawn(&shown, &mut ui, (80, 24));
    for text in
        ["rebuild", "pause builds", "open the editor", "open the page", "filter the log", "log level", "directives"]
    {
        assert!(screen.contains(text), "{text}:\n{screen}");
    }
    press(key(KeyCode::Char('x')), &mut ui, &shown);
    assert!(!drawn(&shown, &mut ui, (80, 24)).contains("open the editor at"));
}

#[test]
fn warnings_tests_configs_and_a_pause_are_shown_after_errors() {
    let mut shown = twelve(&[2]);
    shown.compiler.insert("c1".to_owned(), of_text("c1", "warning: unused variable: `x`\n --> src/lib.rs:3:9\n"));
    let failed = Problem::other(Kind::Test, "c3", "test works fails\nassertion failed");
    shown.tests.insert("c3".to_owned(), Tested::Failed(vec![failed]));
    shown.tests.insert("c4".to_owned(), Tested::Passed { count: 14 });
    shown.configs[4].state = "failed".to_owned();
    shown.configs[4].error = "unknown field `greting`".to_owned();
    shown.is_paused = true;
    shown.arrange();
    let mut ui = Ui::new(None);
    let screen = drawn(&shown, &mut ui, (200, 50));
    assert!(screen.contains("Compiler: 1 error, 1 warning; 1 failure, 1 failed test"), "{screen}");
    let at = |text: &str| screen.find(text).unwrap_or_else(|| panic!("no {text}:\n{screen}"));
    assert!(at("cannot find value") < at("greting") && at("greting") < at("test works fails"));
    assert!(at("test works fails") < at("unused variable"));
    assert!(screen.contains("PAUSED") && screen.contains("tests pass (14)"), "{screen}");
    let broken = screen.lines().filter(|line| line.starts_with('c') && line.len() > 20).take(3);
    let broken: Vec<&str> = broken.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(broken[1..], ["c2", "c3"], "{screen}");
}

#[test]
fn a_daemon_that_is_away_looks_away_and_directives_are_shown_in_place_of_the_log() {
    let mut shown = twelve(&[]);
    shown.command = "cbus top";
    shown.away = Some(("the connection was closed".to_owned(), 1000));
    shown.now_ms = 6000;
    shown.arrange();
    let mut ui = Ui::new(None);
    let screen = drawn(&shown, &mut ui, (100, 30));
    assert!(screen.contains("the daemon is away (5.0 s), reconnecting: the connection was closed"), "{screen}");
    assert!(screen.contains("1 failure in the connection"), "{screen}");
    shown.away = None;
    shown.arrange();
    shown.directive_count = 1;
    shown.directives =
        vec![Directive { id: "example/greet".to_owned(), about: "name=Ada".to_owned(), ..Directive::default() }];
    press(key(KeyCode::Char('d')), &mut ui, &shown);
    let screen = drawn(&shown, &mut ui, (100, 30));
    assert!(
        screen.contains("Directives: 1") && screen.contains("example/greet  busy   name=Ada  no value"),
        "{screen}"
    );
}

#[test]
fn long_log_lines_are_wrapped_and_nothing_of_them_is_lost() {
    let mut shown = Shown::new("cbus dev", "one");
    let long = (0..60).map(|at| format!("word{at}")).collect::<Vec<_>>().join(" ");
    shown.add_lines([LogLine { level: "INFO".to_owned(), message: long, ..LogLine::default() }]);
    shown.arrange();
    let screen = drawn(&shown, &mut Ui::new(None), (80, 24));
    let joined: String = screen.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    (0..60).for_each(|at| assert!(joined.contains(&format!("word{at}")), "word{at}:\n{screen}"));
}

#[test]
fn tiny_terminals_are_drawn_on_too_and_names_are_ordered_as_people_do() {
    for size in [(1, 1), (10, 3), (40, 10), (80, 5)] {
        let mut ui = Ui::new(None);
        ui.help = size.0 == 40;
        drawn(&twelve(&[1, 2]), &mut ui, size);
    }
    let mut names = ["c10", "c2", "c1", "b", "c02x"];
    names.sort_by(|a, b| natural(a, b));
    assert_eq!(names, ["b", "c1", "c2", "c02x", "c10"]);
}
