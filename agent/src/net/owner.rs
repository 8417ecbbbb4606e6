//! Who has a UDP port already: for a message that a person can act on.

use std::fs;
use std::path::Path;

/// Describes the sockets at `port` of this network namespace, as far as this process may see their owners.
pub(super) fn describe(port: u16) -> String {
    let found: Vec<(u32, u64)> = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| parse(&text, port))
        .collect();
    let Some((uid, inode)) = found.first() else {
        return "another process".to_owned();
    };
    match process(*inode) {
        Some(name) => name,
        None => format!(
            "a process of user {uid} outside this pod (socket {inode}; on the node: `ss -lunp sport = :{port}`)"
        ),
    }
}

/// User and inode of each socket at `port` in a table of /proc/net.
fn parse(table: &str, port: u16) -> Vec<(u32, u64)> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_, local) = fields.nth(1)?.rsplit_once(':')?;
        if u16::from_str_radix(local, 16).ok()? != port {
            return None;
        }
        let uid = fields.nth(5)?.parse().ok()?;
        Some((uid, fields.nth(1)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

/// The process that holds the socket, where its descriptors can be seen.
fn process(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let holds = |folder: &Path| {
        let descriptors = fs::read_dir(folder.join("fd")).ok()?;
        descriptors
            .flatten()
            .any(|entry| {
                fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })
            .then(|| fs::read_to_string(folder.join("comm")).unwrap_or_default())
    };
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.chars().all(|c| c.is_ascii_digit()) {
            continue;
        }
        if let Some(name) = holds(&entry.path()) {
            return Some(format!("process {} ({pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_user_and_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
  107: 00000000:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000   104        0 31337 2 0000000000000000 0\n\
  108: 00000000:1194 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 31338 2 0000000000000000 0\n";
        assert_eq!(parse(table, 500), [(104, 31337)]);
        assert_eq!(parse(table, 4500), [(0, 31338)]);
        assert!(parse(table, 53).is_empty());
    }

    #[test]
    fn the_holder_of_a_socket_is_named() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        let port = socket.local_addr().expect("address").port();
        let text = describe(port);
        assert!(text.contains(&std::process::id().to_string()), "{text}");
    }
}
