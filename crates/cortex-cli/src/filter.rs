//! Which topics a list shows.

use cortex_client::{TopicFilter, TopicInfo};

use crate::args::ListArgs;
use crate::error::{CliError, Kind};

/// What a topic must be like; it has to pass every part that is there.
#[derive(Debug)]
pub(crate) struct Filter {
    glob: Option<TopicFilter>,
    message_type: Option<String>,
    node: Option<String>,
}

impl Filter {
    /// The filter that the arguments describe. A pattern that is none is a usage error.
    pub(crate) fn new(args: &ListArgs) -> Result<Self, CliError> {
        Ok(Self {
            glob: args.glob.as_deref().map(compile).transpose()?,
            message_type: args.message_type.clone(),
            node: args.node.clone(),
        })
    }

    pub(crate) fn passes(&self, topic: &TopicInfo) -> bool {
        self.glob.as_ref().is_none_or(|glob| glob.matches(topic.name.as_str()))
            && self.message_type.as_ref().is_none_or(|wanted| *wanted == topic.message_type)
            && self.node.as_ref().is_none_or(|wanted| *wanted == topic.publisher_node)
    }

    /// Whether every topic passes.
    pub(crate) fn is_open(&self) -> bool {
        self.glob.is_none() && self.message_type.is_none() && self.node.is_none()
    }
}

/// The pattern, as the daemon understands it, too.
pub(crate) fn compile(pattern: &str) -> Result<TopicFilter, CliError> {
    TopicFilter::new(pattern).map_err(|error| {
        CliError::new(Kind::Usage, format!("{pattern:?} is not a pattern: {error}"))
            .hint("`cortex list --help` explains patterns; a backslash takes a character as it is")
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
            assert_eq!(compile(pattern).unwrap_err().kind(), Kind::Usage, "{pattern}");
        }
    }

    #[test]
    fn every_part_must_pass() {
        let passes = |glob: Option<&str>, message_type: Option<&str>, node: Option<&str>| {
            let args = ListArgs {
                glob: glob.map(str::to_owned),
                message_type: message_type.map(str::to_owned),
                node: node.map(str::to_owned),
                no_headers: false,
            };
            Filter::new(&args).unwrap().passes(&topic())
        };
        assert!(passes(None, None, None));
        assert!(passes(Some("/camera/*"), Some("Image"), Some("camera_node")));
        assert!(!passes(Some("/lidar/*"), Some("Image"), None));
        assert!(!passes(None, Some("Ima"), None));
        assert!(!passes(None, None, Some("lidar_node")));
    }
}
