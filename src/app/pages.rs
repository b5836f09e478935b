//! What the dashboard is given.

use std::sync::Arc;

use crate::{
    config::Settings,
    dashboard::{DashboardParts, History},
    http::GatedBroker,
};

/// What the dashboard is made of, if it is served.
pub(super) fn dashboard_parts(
    settings: &Settings,
    gated: &GatedBroker,
    history: &Arc<History>,
) -> Option<DashboardParts> {
    let own = &settings.dashboard;
    own.enabled.then(|| DashboardParts {
        gated: gated.clone(),
        read_only: own.read_only,
        is_tls: settings.tls.files().is_some(),
        max_viewers: own.max_viewers,
        share_per_key: settings.limits.max_share_per_key_percent,
        collects: settings.metrics.queue_interval().is_some(),
        count_limit: settings.metrics.queue_count_limit.into(),
        settings: shown_settings(settings),
        history: Arc::clone(history),
    })
}

/// Settings that tell what may be asked for, and no secret.
fn shown_settings(settings: &Settings) -> Vec<(String, String)> {
    let sections = [
        ("limits", serde_json::to_value(&settings.limits)),
        ("long_poll", serde_json::to_value(&settings.long_poll)),
        ("engine", serde_json::to_value(&settings.engine)),
        ("maintenance", serde_json::to_value(&settings.maintenance)),
        ("metrics", serde_json::to_value(&settings.metrics)),
        ("server", serde_json::to_value(&settings.server)),
    ];
    let of_section = |(section, value): (&str, serde_json::Result<serde_json::Value>)| {
        let fields = value.ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
        let shown = |value: serde_json::Value| match value {
            serde_json::Value::Null => "unset".to_owned(),
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let fields = fields.into_iter();
        fields.map(|(name, value)| (format!("{section}.{name}"), shown(value))).collect::<Vec<_>>()
    };
    sections.into_iter().flat_map(of_section).collect()
}
