//! The commands, and what they share: the address, the timeout and the output.

pub(crate) mod list;
pub(crate) mod lookup;
pub(crate) mod ping;
pub(crate) mod shutdown;
pub(crate) mod wait;
pub(crate) mod watch;

use std::time::{Duration, Instant};

use cortex_client::{Address, ConnectError, ConnectTarget, DiscoveryClient, Error};

use crate::error::{CliError, Kind};
use crate::output::Output;
use crate::preflight;

/// The address, timeout and output of one command.
#[derive(Debug)]
pub(crate) struct CommandContext<'a> {
    pub(crate) address: Address,
    pub(crate) timeout: Duration,
    pub(crate) output: &'a Output,
}

impl CommandContext<'_> {
    /// Returns a client, after a check that a daemon listens. Each call of the client may take the
    /// time that the check has left.
    pub(crate) fn connect(&self) -> Result<DiscoveryClient, CliError> {
        self.connect_for(self.timeout)
    }

    /// Like `connect`, with at most `call_timeout` for each call.
    pub(crate) fn connect_for(&self, call_timeout: Duration) -> Result<DiscoveryClient, CliError> {
        let started = Instant::now();
        preflight::check(&self.address, self.timeout.min(call_timeout))?;
        DiscoveryClient::builder()
            .address(self.address.as_str())
            .timeout(self.timeout.saturating_sub(started.elapsed()).min(call_timeout))
            .fail_fast(true)
            .build()
            .map_err(|error| self.cli_error(&error))
    }

    /// Converts an error of the client, and adds a hint.
    pub(crate) fn cli_error(&self, error: &Error) -> CliError {
        if let Error::NoAnswer { .. } | Error::Disconnected { .. } = error {
            return self.no_answer();
        }
        let message = error.to_string();
        match error {
            Error::NoSuchTopic { .. } => CliError::new(Kind::NoSuchTopic, message)
                .with_hint("`cortex topic list` shows the registered topics"),
            Error::AlreadyRegistered { .. } => CliError::new(Kind::AlreadyRegistered, message),
            Error::WaitTimedOut { topic, .. } => self.wait_timed_out(&[topic], false),
            Error::Unreadable(_) => CliError::new(Kind::Unreadable, message).with_hint(format!(
                "the process that listens at {} may not be a discovery daemon",
                self.address.as_str()
            )),
            Error::Refused { .. } => CliError::new(Kind::Refused, message),
            Error::Unreachable { cause, .. } => self.unreachable(cause),
            Error::InvalidAddress { .. } => CliError::new(Kind::Usage, message)
                .with_hint("an address is ipc://PATH, ipc://@NAME or tcp://HOST:PORT"),
            Error::NoAnswer { .. } | Error::Transport { .. } | _ => {
                CliError::new(Kind::Failure, message)
            }
        }
    }

    /// The error for topics that did not appear in time, or with `gone` did not disappear.
    pub(crate) fn wait_timed_out(&self, topics: &[&str], gone: bool) -> CliError {
        const SHOWN: usize = 3;
        let mut names = topics.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let further = topics.len().saturating_sub(SHOWN);
        if further > 0 {
            names = format!("{names} and {further} more");
        }
        let within = humantime::format_duration(self.timeout);
        let (what, hint) = if gone {
            (
                format!("{names} did not disappear within {within}"),
                "shows which node publishes each topic",
            )
        } else {
            (format!("{names} did not appear within {within}"), "shows the registered topics")
        };
        CliError::new(Kind::WaitTimedOut, what).with_hint(format!("`cortex topic list` {hint}"))
    }

    /// The error for an address at which the client finds no daemon.
    fn unreachable(&self, cause: &ConnectError) -> CliError {
        // For a local socket the check knows more.
        if let ConnectTarget::Path(_) | ConnectTarget::Abstract(_) = self.address.target()
            && let Err(gone) = preflight::check(&self.address, Duration::ZERO)
        {
            return gone;
        }
        let message = format!("no daemon at {}: {cause}", self.address.as_str());
        CliError::new(Kind::NoDaemon, message)
            .with_hint("check the address, and check that a daemon listens there")
    }

    pub(crate) fn no_answer(&self) -> CliError {
        // If the daemon stopped in the meantime, report that. Only for local sockets: this check takes
        // no time there.
        if let ConnectTarget::Path(_) | ConnectTarget::Abstract(_) = self.address.target()
            && let Err(gone) = preflight::check(&self.address, Duration::ZERO)
        {
            return gone;
        }
        let hint = match self.address.target() {
            ConnectTarget::Path(_) | ConnectTarget::Abstract(_) | ConnectTarget::Ip(_) => {
                "a process listens there; if it is a busy daemon, allow more time with --timeout"
            }
            ConnectTarget::HostName { .. } => {
                "check the host name, and check that a daemon listens there"
            }
        };
        let within = humantime::format_duration(self.timeout);
        let message = format!("no answer within {within} from {}", self.address.as_str());
        CliError::new(Kind::NoAnswer, message).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use cortex_client::UnreadableReply;

    use super::*;
    use crate::args::Cli;
    use crate::render;

    #[test]
    fn every_error_of_the_client_has_its_message_and_exit_code() {
        let output = Output::new(&Cli::try_parse_from(["cortex", "ping"]).unwrap().global);
        let address = "tcp://robot.local:5550".parse().unwrap();
        let context = CommandContext { address, timeout: Duration::from_secs(2), output: &output };
        let topic = || "/camera/image".to_owned();
        let errors = [
            Error::NoSuchTopic { topic: topic() },
            Error::AlreadyRegistered {
                topic: topic(),
                node: Some("camera_node".into()),
                message: String::new(),
            },
            Error::AlreadyRegistered { topic: topic(), node: None, message: String::new() },
            Error::NoAnswer {
                address: String::new(),
                waited: Duration::ZERO,
                attempts: 1,
                cause: None,
            },
            Error::Unreachable {
                address: String::new(),
                cause: ConnectError::HostName {
                    name: "robot.local".into(),
                    reason: "Name or service not known".into(),
                },
            },
            Error::Unreachable { address: String::new(), cause: ConnectError::Refused },
            Error::WaitTimedOut { topic: topic(), waited: Duration::from_secs(30) },
            Error::Unreadable(UnreadableReply::NoTopicInfo),
            Error::Refused { message: "the registry is full".into() },
        ];
        let reports =
            errors.map(|error| render::json(&context.cli_error(&error).report(), false).unwrap());
        insta::assert_snapshot!(reports.join("\n"));
    }
}
