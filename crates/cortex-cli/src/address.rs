//! The choice of the daemon's address, before the command connects.

use std::ffi::OsStr;

use cortex_client::Address;

use crate::args::ADDRESS_VARIABLE;
use crate::error::{CliError, Kind};

/// Returns the address of the option, or else of the environment variable, or else the default. An
/// empty variable counts as not set.
pub(crate) fn choose_address(
    option: Option<&str>,
    variable: Option<&OsStr>,
) -> Result<Address, CliError> {
    if let Some(text) = option {
        return parse(text, "-a");
    }
    let from_environment = format!("${ADDRESS_VARIABLE}");
    match variable.filter(|value| !value.is_empty()).map(OsStr::to_str) {
        None => Ok(Address::default()),
        Some(Some(text)) => parse(text, &from_environment),
        Some(None) => {
            Err(CliError::new(Kind::Usage, format!("{from_environment} is not valid UTF-8")))
        }
    }
}

fn parse(text: &str, source: &str) -> Result<Address, CliError> {
    text.parse().map_err(|error| {
        CliError::new(Kind::Usage, format!("invalid address {text:?} from {source}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use cortex_client::DEFAULT_DISCOVERY_ADDRESS;

    use super::*;

    #[test]
    fn an_unusable_address_has_its_source_and_a_reason() {
        for (option, variable, message) in [
            (
                Some("tcp://10.0.0.5"),
                None,
                "invalid address \"tcp://10.0.0.5\" from -a: the port is missing: write \
                 tcp://HOST:PORT",
            ),
            (
                None,
                Some("ws://robot"),
                "invalid address \"ws://robot\" from $CORTEX_DISCOVERY_ADDRESS: the transport \"ws\" \
                 is not supported: write ipc://PATH, ipc://@NAME or tcp://HOST:PORT",
            ),
        ] {
            let error = choose_address(option, variable.map(OsStr::new)).unwrap_err();
            assert_eq!((error.kind(), error.message()), (Kind::Usage, message));
        }
    }

    #[test]
    fn the_option_overrides_the_environment_and_an_empty_variable_is_ignored() {
        let choose = |option: Option<&str>, variable: Option<&str>| {
            let address = choose_address(option, variable.map(OsStr::new)).unwrap();
            address.as_str().to_owned()
        };
        assert_eq!(choose(Some("ipc://a"), Some("ipc://b")), "ipc://a");
        assert_eq!(choose(None, Some("ipc://b")), "ipc://b");
        assert_eq!(choose(None, Some("")), DEFAULT_DISCOVERY_ADDRESS);
        assert_eq!(choose(None, None), DEFAULT_DISCOVERY_ADDRESS);
        assert!(choose_address(Some(""), None).is_err());
    }
}
