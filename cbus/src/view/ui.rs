//! What the person has chosen: what is scrolled, filtered and asked.

use controllerbus_api::proto::LogLine;
use tracing::Level;

use super::model::Shown;

/// The levels, the most severe first.
pub const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

/// A part of the view that scrolls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Problems,
    Plugins,
    Controllers,
    /// The log, or the directives in its place.
    Lower,
}

/// Which log lines are shown.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Up to this one of [`LEVELS`].
    pub level: usize,
    /// Only lines of this plugin.
    pub plugin: Option<String>,
    /// Only lines that contain this text.
    pub text: String,
    /// Whether the text is being typed.
    pub typing: bool,
}

impl Filter {
    pub fn takes(&self, line: &LogLine) -> bool {
        let level = line.level.parse::<Level>().unwrap_or(Level::TRACE);
        let text = self.text.to_lowercase();
        level <= LEVELS[self.level]
            && self.plugin.as_ref().is_none_or(|plugin| *plugin == line.plugin)
            && (text.is_empty()
                || line.message.to_lowercase().contains(&text)
                || line.fields.to_lowercase().contains(&text)
                || line.plugin.to_lowercase().contains(&text))
    }
}

/// The state of the view that is the person's.
#[derive(Clone, Debug)]
pub struct Ui {
    /// The part that was chosen; until one is, the problems if there are any, and the log otherwise.
    pub chosen: Option<Part>,
    /// Whether it is as large as it can be.
    pub zoomed: bool,
    /// The first row that is shown of the problems, the controllers and the directives.
    pub problems: usize,
    pub controllers: usize,
    pub directives: usize,
    /// How many rows the log is scrolled up from the newest.
    pub above: usize,
    /// The plugin that keys are about.
    pub selected: Option<String>,
    /// The first plugin that is shown.
    pub plugins: usize,
    pub filter: Filter,
    /// Whether the directives are shown in place of the log.
    pub shows_directives: bool,
    pub help: bool,
    /// The plugin that is rolled back if the answer is yes.
    pub question: Option<String>,
    /// How the last request went.
    pub notice: Option<String>,
    /// How many rows of the active part are shown, for paging.
    pub page: usize,
    /// How many columns there are.
    pub width: usize,
}

impl Ui {
    /// Shows lines up to a level.
    pub fn new(level: Option<Level>) -> Self {
        let level = level.and_then(|level| LEVELS.iter().position(|known| *known == level)).unwrap_or(2);
        Self {
            chosen: None,
            zoomed: false,
            problems: 0,
            controllers: 0,
            directives: 0,
            above: 0,
            selected: None,
            plugins: 0,
            filter: Filter { level, plugin: None, text: String::new(), typing: false },
            shows_directives: false,
            help: false,
            question: None,
            notice: None,
            page: 10,
            width: 80,
        }
    }

    /// The part that keys scroll.
    pub fn active(&self, shown: &Shown) -> Part {
        match self.chosen {
            Some(Part::Problems) | None if shown.problems.is_empty() => Part::Lower,
            Some(part) => part,
            None => Part::Problems,
        }
    }

    /// Chooses the next part, or the one before.
    pub fn choose(&mut self, shown: &Shown, forward: bool) {
        const ALL: [Part; 4] = [Part::Problems, Part::Plugins, Part::Controllers, Part::Lower];
        let active = self.active(shown);
        let at = ALL.iter().position(|part| *part == active).unwrap_or(0);
        let step = if forward { 1 } else { ALL.len() - 1 };
        let mut next = ALL[(at + step) % ALL.len()];
        if next == Part::Problems && shown.problems.is_empty() {
            next = if forward { Part::Plugins } else { Part::Lower };
        }
        if next == Part::Plugins && self.selected_at(shown).is_none() {
            self.selected = shown.plugins.first().map(|plugin| plugin.id.clone());
        }
        self.chosen = Some(next);
    }

    /// Scrolls the active part by so many rows; down is positive.
    pub fn scroll(&mut self, shown: &Shown, rows: isize) {
        let moved = |at: usize| at.saturating_add_signed(rows);
        match self.active(shown) {
            Part::Problems => self.problems = moved(self.problems),
            Part::Controllers => self.controllers = moved(self.controllers),
            Part::Lower if self.shows_directives => self.directives = moved(self.directives),
            Part::Lower => self.above = self.above.saturating_add_signed(-rows),
            Part::Plugins => {
                let at = self.selected_at(shown);
                let next = at.map_or(0, moved).min(shown.plugins.len().saturating_sub(1));
                self.selected = shown.plugins.get(next).map(|plugin| plugin.id.clone());
            }
        }
    }

    /// Scrolls the active part to its begin, or to its end.
    pub fn scroll_to(&mut self, shown: &Shown, end: bool) {
        const FAR: isize = 1 << 30;
        self.scroll(shown, if end { FAR } else { -FAR });
    }

    /// Where the selected plugin is in the list.
    pub fn selected_at(&self, shown: &Shown) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        shown.plugins.iter().position(|plugin| plugin.id == *selected)
    }

    /// The plugin that keys are about: only while plugins are chosen from.
    pub fn about(&self, shown: &Shown) -> Option<String> {
        let at = self.selected_at(shown).filter(|_| self.active(shown) == Part::Plugins)?;
        shown.plugins.get(at).map(|plugin| plugin.id.clone())
    }
}
