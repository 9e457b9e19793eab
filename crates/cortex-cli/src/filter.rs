//! The filter of `cortex topic list`.

use cortex_client::{TopicFilter, TopicInfo};

use crate::args::ListArgs;
use crate::error::{CliError, Kind};

/// Conditions for a topic. A topic must match every condition that is set.
#[derive(Debug)]
pub(crate) struct ListFilter {
    glob: Option<TopicFilter>,
    message_type: Option<String>,
    node: Option<String>,
}

impl ListFilter {
    /// Returns the filter that the arguments describe. An invalid pattern is a usage error.
    pub(crate) fn new(args: &ListArgs) -> Result<Self, CliError> {
        Ok(Self {
            glob: args.glob.as_deref().map(parse_pattern).transpose()?,
            message_type: args.message_type.clone(),
            node: args.node.clone(),
        })
    }

    pub(crate) fn matches(&self, topic: &TopicInfo) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(topic.name.as_str()))
            && self.message_type.as_ref().is_none_or(|wanted| *wanted == topic.message_type)
            && self.node.as_ref().is_none_or(|wanted| *wanted == topic.publisher_node)
    }

    /// Whether the filter has no condition.
    pub(crate) fn matches_all(&self) -> bool {
        self.glob.is_none() && self.message_type.is_none() && self.node.is_none()
    }
}

/// Parses a pattern with the same rules as the daemon.
pub(crate) fn parse_pattern(pattern: &str) -> Result<TopicFilter, CliError> {
    TopicFilter::new(pattern).map_err(|error| {
        CliError::new(Kind::Usage, format!("{pattern:?} is not a valid pattern: {error}"))
            .with_hint(
                "`cortex topic list --help` explains patterns; a backslash escapes a character",
            )
    })
}

#[cfg(test)]
mod tests {
    use cortex_client::TopicName;

    use super::*;

    fn topic() -> TopicInfo {
        TopicInfo {
            name: TopicName::new("/camera/left").unwrap(),
            address: "ipc:///tmp/a".into(),
            message_type: "Image".into(),
            fingerprint: 1,
            publisher_node: "camera_node".into(),
        }
    }

    #[test]
    fn a_broken_pattern_is_a_usage_error() {
        for pattern in ["", "/a[", "/{a,b}", "/[z-a]", "/a\\"] {
            assert_eq!(parse_pattern(pattern).unwrap_err().kind(), Kind::Usage, "{pattern}");
        }
    }

    #[test]
    fn every_condition_must_match() {
        let matches = |glob: Option<&str>, message_type: Option<&str>, node: Option<&str>| {
            let args = ListArgs {
                glob: glob.map(str::to_owned),
                message_type: message_type.map(str::to_owned),
                node: node.map(str::to_owned),
                no_headers: false,
            };
            ListFilter::new(&args).unwrap().matches(&topic())
        };
        assert!(matches(None, None, None));
        assert!(matches(Some("/camera/*"), Some("Image"), Some("camera_node")));
        assert!(!matches(Some("/lidar/*"), Some("Image"), None));
        assert!(!matches(None, Some("Ima"), None));
        assert!(!matches(None, None, Some("lidar_node")));
    }
}
