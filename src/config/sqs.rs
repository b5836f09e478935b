use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// `[sqs]`: the SQS wire protocol, on the port of REST.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sqs {
    /// Whether it is served.
    pub enabled: bool,
    /// The account in URLs and ARNs of queues: twelve digits.
    pub account_id: String,
    /// The region in ARNs.
    pub region: String,
    /// What URLs of queues begin with, such as `https://queue.example`; as the client called the gateway
    /// where nothing is set.
    pub base_url: Option<String>,
    /// A file with at least 16 random bytes, from which the secrets of access keys are derived; what is kept
    /// in the database where nothing is set.
    pub master_key_file: Option<PathBuf>,
    /// Whether the groups of a standard queue take turns once a message names one, as with AWS: the queue's
    /// setting `fair` is turned on then.
    pub fair_queues: bool,
}

impl Default for Sqs {
    fn default() -> Self {
        Self {
            enabled: true,
            account_id: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            base_url: None,
            master_key_file: None,
            fair_queues: true,
        }
    }
}

impl Sqs {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let digits = self.account_id.bytes().all(|byte| byte.is_ascii_digit());
        if self.account_id.len() != 12 || !digits {
            let allowed = format!("`{}` is not twelve digits", self.account_id);
            return Err(Invalid { key: "sqs.account_id", allowed });
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=32).contains(&self.region.len()) || !self.region.bytes().all(fits) {
            let allowed = format!("`{}` is not a region, such as us-east-1", self.region);
            return Err(Invalid { key: "sqs.region", allowed });
        }
        let Some(base) = &self.base_url else { return Ok(()) };
        let host = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://"));
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>".contains(&byte);
        let is_fine = host.is_some_and(|host| !host.is_empty() && !host.ends_with('/'))
            && base.bytes().all(plain);
        if is_fine {
            return Ok(());
        }
        let allowed = format!(
            "`{base}` is not a URL without a slash at its end, such as https://queue.example"
        );
        Err(Invalid { key: "sqs.base_url", allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_stand_in_urls_and_arns_is_taken() {
        let base = |url: &str| Sqs { base_url: Some(url.to_owned()), ..Sqs::default() };
        for fine in [Sqs::default(), base("https://queue.example"), base("http://[::1]:8080/mq")] {
            assert!(fine.check().is_ok(), "{fine:?}");
        }
        let account = |id: &str| Sqs { account_id: id.to_owned(), ..Sqs::default() };
        let region = |name: &str| Sqs { region: name.to_owned(), ..Sqs::default() };
        for (wrong, key) in [
            (account("12345678901"), "sqs.account_id"),
            (account("12345678901x"), "sqs.account_id"),
            (region(""), "sqs.region"),
            (region("eu:west"), "sqs.region"),
            (base("queue.example"), "sqs.base_url"),
            (base("https://"), "sqs.base_url"),
            (base("https://queue.example/"), "sqs.base_url"),
            (base("https://queue.example?a"), "sqs.base_url"),
        ] {
            let refusal = wrong.check().expect_err("must be refused");
            assert_eq!(refusal.key, key, "{wrong:?}");
        }
    }
}
