//! When a disruption budget holds: from each moment of a cron schedule, for some time. In UTC.
//!
//! Five fields as crontab(5) has them: minute, hour, day of the month, month, day of the week; lists,
//! ranges, steps and names, and `@hourly` to `@yearly`. Where both days are given, either will do.

use headstart_core::money::Millis;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, civil};

use super::finding::quoted;

/// Longest time that a window may be open.
const LONGEST: Millis = Millis::from_secs(31 * 86_400);

const FORM: &str = "write five fields such as \"0 9 * * mon-fri\", in UTC";

/// A schedule, and how long each of its moments lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Each a set of numbers, as bits.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both kinds of days are restricted, so that either will do.
    either_day: bool,
    lasts: Millis,
}

/// A field's least and greatest number, and the names of its numbers.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        least: 0,
        most: 59,
        names: &[],
    },
    Field {
        name: "hour",
        least: 0,
        most: 23,
        names: &[],
    },
    Field {
        name: "day of the month",
        least: 1,
        most: 31,
        names: &[],
    },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Field {
        name: "day of the week",
        least: 0,
        most: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

impl Window {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub(crate) fn new(schedule: &str, lasts: Millis) -> Result<Self, String> {
        let fail = |problem: String| Err(format!("is {}: {problem}; {FORM}", quoted(schedule)));
        if lasts == Millis(0) || lasts > LONGEST {
            return fail("it lasts for no time, or for more than 31 days".to_owned());
        }
        let spelled = match schedule.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            spelled => spelled,
        };
        let parts: Vec<&str> = spelled.split_ascii_whitespace().take(9).collect();
        if parts.len() != FIELDS.len() {
            return fail(format!("it has {} fields", parts.len()));
        }
        let mut sets = [0; 5];
        for ((set, field), part) in sets.iter_mut().zip(&FIELDS).zip(&parts) {
            match field.read(part) {
                Some(read) => *set = read,
                None => return fail(format!("{} is no {}", quoted(part), field.name)),
            }
        }
        let [minutes, hours, days, months, weekdays] = sets;
        let free = |part: &str| part.starts_with(['*', '?']);
        Ok(Self {
            minutes,
            hours,
            days,
            months,
            // Sunday is both 0 and 7.
            weekdays: weekdays | (weekdays >> 7 & 1),
            either_day: !free(parts[2]) && !free(parts[4]),
            lasts,
        })
    }

    /// Whether one of its moments is at `now`, or not longer ago than it lasts.
    pub(crate) fn is_open(&self, now: Millis) -> bool {
        let time = |millis: u64| {
            let time = Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()?;
            Some(TimeZone::UTC.to_datetime(time))
        };
        // The last moment before the window would be closed again is not in it.
        let (Some(now), Some(first)) = (time(now.0), time((now - self.lasts).0 + 1)) else {
            return false;
        };
        let mut day = first.date();
        while day <= now.date() {
            if self.has_day(day) && self.has_moment(day, first, now) {
                return true;
            }
            let Ok(next) = day.tomorrow() else {
                return false;
            };
            day = next;
        }
        false
    }

    fn has_day(&self, day: civil::Date) -> bool {
        let bit = |set: u64, number: i8| set >> u32::from(number.unsigned_abs()) & 1 == 1;
        let of_month = bit(self.days, day.day());
        let of_week = bit(self.weekdays, day.weekday().to_sunday_zero_offset());
        let right = match self.either_day {
            true => of_month || of_week,
            false => of_month && of_week,
        };
        right && bit(self.months, day.month())
    }

    /// Whether a moment of `day` is from `first` to `last`.
    fn has_moment(&self, day: civil::Date, first: civil::DateTime, last: civil::DateTime) -> bool {
        let start = day.to_datetime(civil::Time::midnight());
        (0..24 * 60_i64).any(|minute| {
            let (hour, minute_of_hour) = (minute / 60, minute % 60);
            let chosen = self.hours >> hour & 1 == 1 && self.minutes >> minute_of_hour & 1 == 1;
            chosen
                && start
                    .checked_add(minute.minutes())
                    .is_ok_and(|moment| first <= moment && moment <= last)
        })
    }
}

impl Field {
    /// The numbers of a comma list, as bits.
    fn read(&self, text: &str) -> Option<u64> {
        text.split(',')
            .try_fold(0, |set, part| Some(set | self.part(part)?))
    }

    /// `*`, `a`, `a-b`, each with `/step`.
    fn part(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
            None => (text, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (self.least, self.most),
            Some((from, to)) => (self.number(from)?, self.number(to)?),
            None => {
                let from = self.number(range)?;
                // `5/10` begins at 5 and goes on.
                (from, if step.is_some() { self.most } else { from })
            }
        };
        if from > to {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        Some(
            (from..=to)
                .step_by(step)
                .fold(0, |set, number| set | 1 << number),
        )
    }

    fn number(&self, text: &str) -> Option<u32> {
        let named = self
            .names
            .iter()
            .position(|name| text.eq_ignore_ascii_case(name));
        let found = match named {
            Some(position) => u32::try_from(position).ok()? + self.least,
            None => number(text)?,
        };
        (self.least..=self.most).contains(&found).then_some(found)
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(schedule: &str, minutes: u64, at: &str) -> bool {
        let time: Timestamp = at.parse().unwrap();
        let now = Millis(u64::try_from(time.as_millisecond()).unwrap());
        let lasts = Millis::from_secs(minutes * 60);
        Window::new(schedule, lasts).unwrap().is_open(now)
    }

    #[test]
    fn a_window_is_open_from_its_moment_until_it_has_lasted() {
        // 2026-11-25 is a Wednesday.
        for (at, is_open) in [
            ("2026-11-25T08:59:59Z", false),
            ("2026-11-25T09:00:00Z", true),
            ("2026-11-25T16:59:59Z", true),
            ("2026-11-25T17:00:00Z", false),
            ("2026-11-28T10:00:00Z", false),
        ] {
            assert_eq!(open("0 9 * * mon-fri", 8 * 60, at), is_open, "{at}");
        }
    }

    #[test]
    fn a_window_may_reach_over_midnight_and_over_months() {
        assert!(open("30 22 * * *", 180, "2026-11-26T01:29:00Z"));
        assert!(!open("30 22 * * *", 180, "2026-11-26T01:30:00Z"));
        assert!(open("0 0 28 2 *", 7 * 24 * 60, "2027-03-06T23:59:00Z"));
        assert!(!open("0 0 28 2 *", 7 * 24 * 60, "2027-03-07T00:00:00Z"));
    }

    #[test]
    fn lists_steps_ranges_and_names_choose_their_numbers() {
        for (schedule, at, is_open) in [
            ("*/15 * * * *", "2026-11-25T10:30:00Z", true),
            ("*/15 * * * *", "2026-11-25T10:31:00Z", false),
            ("5/10 * * * *", "2026-11-25T10:25:00Z", true),
            ("0 8-10/2,20 * * *", "2026-11-25T10:00:00Z", true),
            ("0 8-10/2,20 * * *", "2026-11-25T09:00:00Z", false),
            ("0 0 * NOV Wed", "2026-11-25T00:00:00Z", true),
            ("0 0 * * 7", "2026-11-29T00:00:00Z", true),
            ("0 0 1 * sun", "2026-11-29T00:00:00Z", true),
            ("0 0 1 * sun", "2026-12-01T00:00:00Z", true),
            ("0 0 * * 0", "2026-12-01T00:00:00Z", false),
            ("@daily", "2026-12-01T00:00:00Z", true),
        ] {
            assert_eq!(open(schedule, 1, at), is_open, "{schedule} {at}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_field_that_is_wrong() {
        let hour = Millis::from_secs(3600);
        for (schedule, problem) in [
            ("", "it has 0 fields"),
            ("0 9 * *", "it has 4 fields"),
            ("@reboot", "it has 1 fields"),
            ("60 * * * *", "\"60\" is no minute"),
            ("0 9-5 * * *", "\"9-5\" is no hour"),
            ("0 0 0 * *", "\"0\" is no day of the month"),
            ("0 0 * foo *", "\"foo\" is no month"),
            ("0 0 * * mon-", "\"mon-\" is no day of the week"),
            ("*/0 * * * *", "\"*/0\" is no minute"),
        ] {
            let error = Window::new(schedule, hour).unwrap_err();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains("mon-fri"), "{error}");
        }
        assert!(Window::new("* * * * *", Millis(0)).is_err());
        assert!(Window::new("* * * * *", Millis::from_secs(32 * 86_400)).is_err());
    }
}
