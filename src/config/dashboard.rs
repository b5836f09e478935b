use serde::{Deserialize, Serialize};

use super::{Invalid, check_range};

/// `[dashboard]`: pages for people, below `/ui`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dashboard {
    /// Whether it is served.
    pub enabled: bool,
    /// Whether it only shows, whatever rights its users have.
    pub read_only: bool,
    /// Pages that can be kept up to date at the same time.
    pub max_viewers: usize,
}

impl Default for Dashboard {
    fn default() -> Self {
        Self { enabled: true, read_only: false, max_viewers: 200 }
    }
}

impl Dashboard {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("dashboard.max_viewers", self.max_viewers, 0, 10_000)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, load};

    #[test]
    fn it_can_be_turned_off_and_only_show() {
        let dashboard = |name: &str, value: &str| {
            let name = format!("PGMQ_GATEWAY__DASHBOARD__{name}");
            let environment = vec![(name.into(), value.into())];
            load(&Sources { file: None, environment, options: Vec::new() })
                .map(|loaded| loaded.settings.dashboard)
        };
        let default = dashboard("ENABLED", "").expect("valid");
        assert!(default.enabled && !default.read_only && default.max_viewers > 0);
        assert!(!dashboard("ENABLED", "false").expect("valid").enabled);
        assert!(dashboard("READ_ONLY", "true").expect("valid").read_only);
        assert_eq!(dashboard("MAX_VIEWERS", "0").expect("valid").max_viewers, 0);
        let refused = dashboard("MAX_VIEWERS", "10001").expect_err("too many").to_string();
        assert!(refused.contains("dashboard.max_viewers"), "{refused}");
    }
}
