//! What stands at the head of every page of a queue.

use crate::domain::QueueName;

use super::{place, viewer::Rights};

/// The pages of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Messages,
    Send,
    Settings,
    Table,
}

/// The head of a queue's pages.
#[derive(Debug)]
pub(super) struct QueueHead {
    pub(super) name: String,
    pub(super) href: String,
    pub(super) rights: Rights,
    pub(super) paused: bool,
    tab: Tab,
}

/// A way to another page of the queue.
pub(super) struct TabLink {
    pub(super) title: &'static str,
    pub(super) href: String,
    pub(super) is_here: bool,
}

impl QueueHead {
    pub(super) fn new(queue: &QueueName, tab: Tab, rights: Rights, paused: bool) -> Self {
        let name = queue.to_string();
        Self { href: place::queue(&name), name, rights, paused, tab }
    }

    /// The pages that its viewer may see.
    pub(super) fn tabs(&self) -> Vec<TabLink> {
        let Rights { look, send, manage, .. } = self.rights;
        let all = [
            (Tab::Overview, "Overview", "", true),
            (Tab::Messages, "Messages", "/messages", look),
            (Tab::Send, "Send", "/send", send),
            (Tab::Settings, "Settings", "/settings", manage),
            (Tab::Table, "Table and bindings", "/table", true),
        ];
        let link = |(tab, title, path, _)| TabLink {
            title,
            href: format!("{}{path}", self.href),
            is_here: tab == self.tab,
        };
        all.into_iter().filter(|(.., may)| *may).map(link).collect()
    }
}
