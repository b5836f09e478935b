//! Which messages a page is about: its tab, its search, and how far it has come.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};

use crate::{
    broker::{MessageSearch, MessageSource, Position},
    domain::{Filter, QueueName, Timestamp},
};

use super::{failure::Failure, form::Form};

/// A list of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Waiting,
    InFlight,
    Delayed,
    All,
    Archived,
    Dead,
}

impl List {
    pub(super) const ALL: [Self; 6] =
        [Self::Waiting, Self::InFlight, Self::Delayed, Self::All, Self::Archived, Self::Dead];

    /// The one of this word.
    pub(super) fn parse(word: Option<&str>) -> Result<Self, Failure> {
        let Some(word) = word else { return Ok(Self::Waiting) };
        Self::ALL.into_iter().find(|list| list.word() == word).ok_or_else(|| {
            let known = Self::ALL.map(Self::word).join(", ");
            Failure::invalid(format!("`list` must be one of {known}, not `{word}`."))
        })
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InFlight => "in-flight",
            Self::Delayed => "delayed",
            Self::All => "all",
            Self::Archived => "archived",
            Self::Dead => "dead",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::InFlight => "In flight",
            Self::Delayed => "Delayed",
            Self::All => "All in the queue",
            Self::Archived => "Archived",
            Self::Dead => "Dead",
        }
    }
}

/// Where the messages of a list are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) queue: QueueName,
    pub(super) source: MessageSource,
    /// The queue whose dead letters they are.
    pub(super) origin: Option<QueueName>,
}

impl Place {
    /// Of a list of a queue whose dead letters go there.
    pub(super) fn of(list: List, queue: &QueueName, dead_letters: Option<&QueueName>) -> Self {
        let here = |source| Self { queue: queue.clone(), source, origin: None };
        match (list, dead_letters) {
            (List::Waiting, _) => here(MessageSource::Waiting),
            (List::InFlight, _) => here(MessageSource::InFlight),
            (List::Delayed, _) => here(MessageSource::Delayed),
            (List::All, _) => here(MessageSource::All),
            (List::Archived, _) => here(MessageSource::Archived),
            (List::Dead, None) => {
                Self { origin: Some(queue.clone()), ..here(MessageSource::Archived) }
            }
            (List::Dead, Some(dead)) => Self {
                queue: dead.clone(),
                source: MessageSource::All,
                origin: Some(queue.clone()),
            },
        }
    }

    /// Whether it is an archive.
    pub(super) fn is_archive(&self) -> bool {
        self.source == MessageSource::Archived
    }
}

/// What a search says.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    pub(super) filter: Option<Filter>,
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) until: Option<DateTime<Utc>>,
    /// As it was written.
    pub(super) written: [String; 3],
}

/// Its fields.
pub(super) const FIELDS: [&str; 3] = ["filter", "since", "until"];

impl Search {
    /// Reads its fields.
    pub(super) fn of(form: &Form) -> Result<Self, Failure> {
        Ok(Self {
            filter: form.parsed("filter")?,
            since: moment(form, "since")?,
            until: moment(form, "until")?,
            written: FIELDS.map(|field| form.get(field).unwrap_or_default().to_owned()),
        })
    }

    /// The same, of what was there at a moment: what comes later is not found.
    pub(super) fn bounded_by(mut self, now: DateTime<Utc>) -> Self {
        if self.until.is_none_or(|until| until > now) {
            let [.., until] = &mut self.written;
            *until = now.to_rfc3339_opts(SecondsFormat::Micros, true);
            self.until = Some(now);
        }
        self
    }

    /// Whether it says anything.
    pub(super) fn is_empty(&self) -> bool {
        self.written.iter().all(String::is_empty)
    }

    /// Those messages of a place that fit.
    pub(super) fn within(&self, place: &Place) -> MessageSearch {
        MessageSearch {
            source: place.source,
            since: self.since,
            until: self.until,
            last_id: None,
            filter: self.filter.clone(),
            origin: place.origin.clone(),
        }
    }

    /// Its fields, as they stand in a form or a URL.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let fields = FIELDS.into_iter().zip(self.written.iter().cloned());
        fields.filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// A time as a browser's field writes it, in UTC, or with a zone.
fn moment(form: &Form, name: &str) -> Result<Option<DateTime<Utc>>, Failure> {
    let Some(text) = form.get(name) else { return Ok(None) };
    let local =
        ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S"];
    let local = local.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let parsed = match local {
        Some(local) => local.and_utc(),
        None => {
            text.parse::<Timestamp>()
                .map_err(|reason| Failure::invalid(format!("`{name}` {reason}")))?
                .0
        }
    };
    // Nothing was stored before, and PostgreSQL's calendar begins later than ours.
    Ok(Some(parsed.max(DateTime::UNIX_EPOCH)))
}

/// How far a list was shown, as it stands in a URL.
pub(super) fn write_position(position: Position) -> String {
    let (vt, id) = position.parts();
    format!("{vt}.{id}")
}

/// Reads it.
pub(super) fn read_position(form: &Form, name: &str) -> Result<Option<Position>, Failure> {
    let Some(text) = form.get(name) else { return Ok(None) };
    let parts = text.split_once('.');
    let read = parts.and_then(|(vt, id)| Position::of_parts(vt.parse().ok()?, id.parse().ok()?));
    let wrong =
        || Failure::invalid(format!("`{name}` is what a page of this list gave, not `{text}`."));
    read.map(Some).ok_or_else(wrong)
}
