//! The default path of the state file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use cortex_proto::{ListenAddress, ListenTarget};

use super::credentials::own_uid;
use super::fnv::Fnv1a;
use super::users;

/// The default path of the state file: in systemd's state directory, or else in the user's. The
/// user's home directory is `$HOME`, or else that of the user database; for root without one, the
/// directory is `/var/lib/cortex`. The file name depends on the first address, so that daemons at
/// different addresses use different files.
#[must_use]
pub fn default_path(addresses: &[ListenAddress]) -> Option<PathBuf> {
    let uid = own_uid();
    // The daemon creates no home directory.
    let home = || users::home(uid).filter(|home| home.is_absolute() && home.is_dir());
    path_from(std::env::var_os, home, uid == 0, addresses)
}

fn path_from(
    variable: impl Fn(&'static str) -> Option<OsString>,
    home_in_database: impl Fn() -> Option<PathBuf>,
    is_root: bool,
    addresses: &[ListenAddress],
) -> Option<PathBuf> {
    let name = file_name(addresses.first()?);
    // The XDG specification says to ignore relative paths.
    let absolute = |path: &OsStr| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let from_systemd = || {
        let directories = variable("STATE_DIRECTORY")?;
        let first = directories.as_bytes().split(|byte| *byte == b':').next()?;
        absolute(OsStr::from_bytes(first))
    };
    let from_xdg = || Some(absolute(&variable("XDG_STATE_HOME")?)?.join("cortex"));
    let from_home = || {
        let home = variable("HOME").and_then(|home| absolute(&home)).or_else(&home_in_database)?;
        Some(home.join(".local/state/cortex"))
    };
    let of_root = || is_root.then(|| PathBuf::from("/var/lib/cortex"));
    Some(from_systemd().or_else(from_xdg).or_else(from_home).or_else(of_root)?.join(name))
}

/// A file name with a readable part of the address and a hash, which differs between addresses.
fn file_name(address: &ListenAddress) -> OsString {
    const MAX_READABLE: usize = 64;
    let (kind, text) = match address.target() {
        // A relative path is a different socket in each working directory.
        ListenTarget::Path(path) => {
            ("ipc", std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string())
        }
        ListenTarget::Abstract(name) => ("abstract", name.into()),
        ListenTarget::Tcp(ip) => ("tcp", format!("{}:{}", ip.ip(), ip.port()).into()),
    };
    let mut hash = Fnv1a::default();
    hash.write(kind.as_bytes());
    hash.write(b"\0");
    hash.write(text.as_bytes());

    let mut readable = String::new();
    for character in text.to_string_lossy().chars() {
        if character.is_ascii_alphanumeric() || matches!(character, '.' | '_') {
            readable.push(character);
        } else if !readable.ends_with('-') {
            readable.push('-');
        }
    }
    // The text is ASCII now. The end of a path is more useful than its start.
    let tail = &readable[readable.len().saturating_sub(MAX_READABLE)..];
    let tail = tail.trim_matches('-');
    let dash = if tail.is_empty() { "" } else { "-" };
    format!("{kind}{dash}{tail}-{:016x}.db", hash.finish()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ListenAddress {
        text.parse().unwrap()
    }

    fn directory_from(variables: &[(&str, &str)]) -> Option<String> {
        let variable = |wanted: &'static str| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.into())
        };
        let addresses = [address("tcp://127.0.0.1:5555"), address("ipc:///x")];
        let home = || {
            let (_, home) = variables.iter().find(|(name, _)| *name == "database")?;
            Some(home.into())
        };
        let is_root = variables.contains(&("uid", "0"));
        let path = path_from(variable, home, is_root, &addresses)?;
        assert_eq!(path.file_name().unwrap(), "tcp-127.0.0.1-5555-6fd7cb66a0df3979.db");
        Some(path.parent().unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn the_directory_is_systemds_else_xdgs_else_the_homes() {
        let home = ("HOME", "/home/x");
        let xdg = ("XDG_STATE_HOME", "/state");
        let at = |directory: &str| Some(directory.to_owned());
        assert_eq!(
            directory_from(&[home, xdg, ("STATE_DIRECTORY", "/var/lib/c")]),
            at("/var/lib/c")
        );
        assert_eq!(directory_from(&[home, ("STATE_DIRECTORY", "/var/a:/var/b")]), at("/var/a"));
        assert_eq!(directory_from(&[home, xdg, ("STATE_DIRECTORY", "")]), at("/state/cortex"));
        assert_eq!(
            directory_from(&[home, ("XDG_STATE_HOME", "rel")]),
            at("/home/x/.local/state/cortex")
        );
        assert_eq!(directory_from(&[home]), at("/home/x/.local/state/cortex"));
        assert_eq!(directory_from(&[("HOME", "rel")]), None);
        let database = ("database", "/home/y");
        assert_eq!(directory_from(&[home, database]), at("/home/x/.local/state/cortex"));
        for unusable in ["", "rel"] {
            let at_y = at("/home/y/.local/state/cortex");
            assert_eq!(directory_from(&[("HOME", unusable), database]), at_y);
        }
        assert_eq!(directory_from(&[database, ("uid", "0")]), at("/home/y/.local/state/cortex"));
        assert_eq!(directory_from(&[("uid", "0")]), at("/var/lib/cortex"));
        assert_eq!(directory_from(&[]), None);
        assert_eq!(default_path(&[]), None);
    }

    #[test]
    fn a_files_name_is_safe_readable_and_its_addresss_alone() {
        let texts = [
            "ipc:///tmp/cortex/discovery.sock",
            "ipc:///tmp/cortex-discovery.sock",
            "ipc:///tmp/cortex/discovery_sock",
            "ipc://@tmp/cortex/discovery.sock",
            "ipc:///größe/☃",
            "ipc:///große/☃",
            "ipc://...",
            "ipc://@..",
            "tcp://[::1]:5555",
            "tcp://0.0.0.0:5555",
        ];
        let names: Vec<_> =
            texts.iter().map(|text| file_name(&address(text)).into_string().unwrap()).collect();
        let mut different = names.clone();
        different.sort();
        different.dedup();
        assert_eq!(different.len(), texts.len(), "{names:?}");
        for name in &names {
            let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            assert!(name.chars().all(safe) && name.len() < 120, "{name}");
            assert!(!name.starts_with(['.', '-']), "{name}");
        }
        assert_eq!(names[0], "ipc-tmp-cortex-discovery.sock-03292ee6d75d0bb4.db");
        let long = address(&format!("ipc:///{}/discovery.sock", "d".repeat(80)));
        let name = file_name(&long).into_string().unwrap();
        assert!(name.contains("dd-discovery.sock-") && name.len() < 100, "{name}");
    }

    #[test]
    fn a_relative_socket_is_another_one_in_another_directory() {
        let here = std::env::current_dir().unwrap().join("x.sock");
        let absolute = address(&format!("ipc://{}", here.display()));
        assert_eq!(file_name(&address("ipc://x.sock")), file_name(&absolute));
    }
}
