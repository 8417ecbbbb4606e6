//! What XFRM offers a UDP socket and no crate does: its own bypass policies, and the mark that makes the kernel take ESP
//! out of UDP. IKE must pass whatever policies say about the two hosts (RFC 7296 §2.23, RFC 4301 §4.4.1).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `IP_XFRM_POLICY` and `IPV6_XFRM_POLICY` (linux/in.h, linux/in6.h).
const IP_XFRM_POLICY: libc::c_int = 17;
const IPV6_XFRM_POLICY: libc::c_int = 35;
/// `UDP_ENCAP` and its value for ESP with the non-ESP marker (linux/udp.h).
const UDP_ENCAP: libc::c_int = 100;
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;

/// `struct xfrm_userpolicy_info` (linux/xfrm.h): a selector of 56 bytes with the address family at 40, lifetimes and
/// counters of 96 bytes, priority, index, then direction, action, flags, share, and padding to eight.
const POLICY_LENGTH: usize = 168;
const FAMILY_AT: usize = 40;
const DIRECTION_AT: usize = 160;

/// Lets everything through this socket pass in clear, in both directions. Needs `CAP_NET_ADMIN`.
pub fn allow(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    const INBOUND: u8 = 0;
    const OUTBOUND: u8 = 1;
    let (level, option, family) = if ipv4 {
        (libc::IPPROTO_IP, IP_XFRM_POLICY, libc::AF_INET)
    } else {
        (libc::IPPROTO_IPV6, IPV6_XFRM_POLICY, libc::AF_INET6)
    };
    let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
    for direction in [INBOUND, OUTBOUND] {
        // All else is zero: any address, any port, action "allow", no template.
        let mut policy = [0; POLICY_LENGTH];
        for (place, byte) in policy.iter_mut().skip(FAMILY_AT).zip(family) {
            *place = byte;
        }
        if let Some(place) = policy.get_mut(DIRECTION_AT) {
            *place = direction;
        }
        set(socket, level, option, &policy)?;
    }
    Ok(())
}

/// From now on ESP in UDP goes to the kernel's SAs; what carries the non-ESP marker still comes to the socket.
pub fn take_esp(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(
        socket,
        libc::IPPROTO_UDP,
        UDP_ENCAP,
        &UDP_ENCAP_ESPINUDP.to_ne_bytes(),
    )
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed; pointer and length describe `value`, which the kernel only
    // reads during the call.
    #[expect(unsafe_code, reason = "no crate has these options")]
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
