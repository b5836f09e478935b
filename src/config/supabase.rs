use serde::{Deserialize, Serialize};

/// `[supabase]`: the functions of Supabase Queues, below `/rest/v1`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Supabase {
    /// Whether they are served.
    pub enabled: bool,
}

impl Default for Supabase {
    fn default() -> Self {
        Self { enabled: true }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, load};

    #[test]
    fn the_functions_can_be_turned_off() {
        let enabled = |value: &str| {
            let environment = vec![("PGMQ_GATEWAY__SUPABASE__ENABLED".into(), value.into())];
            load(&Sources { file: None, environment, options: Vec::new() })
                .map(|loaded| loaded.settings.supabase.enabled)
        };
        assert_eq!(enabled("").ok(), Some(true));
        assert_eq!(enabled("false").ok(), Some(false));
        let refused = enabled("perhaps").expect_err("neither").to_string();
        assert!(refused.contains("supabase.enabled"), "{refused}");
    }
}
