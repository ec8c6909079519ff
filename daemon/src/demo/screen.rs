//! What is shown while the deploys run: two timelines that grow on a terminal, lines elsewhere,
//! nothing for a program. Everything here goes to standard error; results go to standard output.

use std::sync::Mutex;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::bars::{self, Paint};
use super::scenario::Seconds;
use super::timeline::{Lane, Timeline};

/// How things are shown.
pub(crate) enum Screen {
    /// Redrawn in place.
    Live(Mutex<Live>),
    /// One line per thing that ended.
    Lines,
    /// Not at all.
    Quiet,
}

/// Timelines on a terminal, one below the other.
pub(crate) struct Live {
    area: MultiProgress,
    lines: Vec<ProgressBar>,
    axis: Seconds,
    paint: Paint,
}

impl Screen {
    /// The one that suits standard error, with a time axis up to `axis`.
    pub(crate) fn for_a_person(axis: Seconds) -> Self {
        let term = Term::stderr();
        if !term.is_term() {
            return Self::Lines;
        }
        Self::Live(Mutex::new(Live {
            area: MultiProgress::new(),
            lines: Vec::new(),
            axis,
            paint: paint(console::colors_enabled_stderr()),
        }))
    }

    /// Says something before the first timeline.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Live(_) | Self::Lines => eprintln!("{text}"),
            Self::Quiet => {}
        }
    }

    /// Makes room for another timeline below what is there.
    pub(crate) fn next(&self) {
        if let Self::Live(live) = self {
            let mut live = live.lock().unwrap_or_else(|e| e.into_inner());
            let blank = live.add();
            blank.finish_with_message(" ");
            live.lines = (0..=Lane::ALL.len()).map(|_| live.add()).collect();
        }
    }

    /// Shows how `timeline` looks at `now`.
    pub(crate) fn draw(&self, timeline: &Timeline, now: Seconds) {
        if let Self::Live(live) = self {
            let mut live = live.lock().unwrap_or_else(|e| e.into_inner());
            live.axis = live.axis.max(now);
            for (line, text) in live.lines.iter().zip(live.text(timeline, now)) {
                line.set_message(text);
            }
        }
    }

    /// Leaves `timeline` as it ended on the terminal.
    pub(crate) fn finish(&self, timeline: &Timeline, now: Seconds) {
        if let Self::Live(live) = self {
            let live = live.lock().unwrap_or_else(|e| e.into_inner());
            for (line, text) in live.lines.iter().zip(live.text(timeline, now)) {
                line.finish_with_message(text);
            }
        }
    }

    /// Ends the part that is redrawn.
    pub(crate) fn close(&self) {
        if let Self::Live(_) = self {
            eprintln!();
        }
    }

    /// Tells that a lane ended, where nothing is redrawn.
    pub(crate) fn ended(&self, timeline: &Timeline, lane: Lane) {
        let (Self::Lines, Some(span)) = (self, timeline.span(lane)) else {
            return;
        };
        let (order, lane) = (timeline.order.label(), lane.label());
        let end = span.end.unwrap_or(span.start);
        let took = span.took(end);
        eprintln!("{order:<10} {end:>9}  {lane:<18} took {took}");
    }

    /// Whether the timelines stay on the terminal.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }
}

impl Live {
    fn add(&self) -> ProgressBar {
        let line = self.area.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("{wide_msg}");
        line.set_style(style.expect("the template is constant"));
        line
    }

    fn text(&self, timeline: &Timeline, now: Seconds) -> Vec<String> {
        let columns = usize::from(Term::stderr().size().1);
        bars::lines(timeline, now, self.axis, columns, self.paint)
    }
}

/// Colours where they are shown.
pub(crate) fn paint(coloured: bool) -> Paint {
    match coloured {
        true => Paint::Coloured,
        false => Paint::Plain,
    }
}
