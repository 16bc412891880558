//! The little netlink that a pair of virtual cables needs. In: names, addresses, a process id; out: devices in the kernel.
//!
//! Written by hand: three requests, each answered by one acknowledgement. A message is a header and attributes, each attribute
//! a length, a type and a value padded to four bytes (`include/uapi/linux/{netlink,rtnetlink,if_link,veth}.h`).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::DrillError;

const VETH_INFO_PEER: u16 = 1;
const ACKNOWLEDGE: u16 = 0x01 | 0x04;
const CREATE: u16 = 0x200 | 0x400;
const UP: u32 = 1;

/// Packets of the pair carry one segment each: a dropped packet is one retransmitted segment, as on a real cable.
const SEGMENTS_PER_PACKET: u32 = 1;

/// A socket to the network configuration of the namespace in which it was made.
#[derive(Debug)]
pub struct Route(OwnedFd);

impl Route {
    /// Opens one in the current network namespace.
    pub fn open() -> Result<Self, DrillError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let made = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute);
        made.map(Self).map_err(DrillError::system("open", "a route netlink socket"))
    }

    /// Makes a veth pair: `name` here, `peer` in the network namespace of the process `peer_pid`.
    pub fn add_veth(&self, name: &str, peer: &str, peer_pid: u32) -> Result<(), DrillError> {
        let wrong = |error: io::Error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => DrillError::unavailable("the kernel has no veth devices; try `modprobe veth`"),
            _ => DrillError::system("make the veth pair", format!("{name} and {peer}"))(error),
        };
        self.ask(libc::RTM_NEWLINK, CREATE, &veth(name, peer, peer_pid)).map_err(wrong)
    }

    /// Gives a device an address of a /30 network and switches it on.
    pub fn bring_up(&self, name: &str, address: Ipv4Addr) -> Result<(), DrillError> {
        let index = if_nametoindex(name).map_err(DrillError::system("find the device", name))?;
        let given = self.ask(libc::RTM_NEWADDR, CREATE, &address_message(index, address));
        given.map_err(DrillError::system("give an address to", name))?;
        self.ask(libc::RTM_NEWLINK, 0, &link(index, UP, UP)).map_err(DrillError::system("switch on", name))
    }

    /// Sends one request and reads its acknowledgement.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let request = request(kind, flags | ACKNOWLEDGE, body);
        send(fd, &request, MsgFlags::empty())?;
        let mut answer = [0_u8; 4096];
        loop {
            match recv(fd, &mut answer, MsgFlags::empty()) {
                Ok(count) => return acknowledged(&answer[..count]),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// `struct nlmsghdr` and what follows it. One request is under way at a time, so its number need not tell it from others.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags).to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// Reads `NLMSG_ERROR`: a negative errno behind the header, 0 for success.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match (kind.map(i32::from), word(16)) {
        (Some(libc::NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(libc::NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut bytes = vec![0_u8; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(change.to_ne_bytes());
    bytes
}

fn veth(name: &str, peer: &str, peer_pid: u32) -> Vec<u8> {
    let segments = attribute(libc::IFLA_GSO_MAX_SEGS, &SEGMENTS_PER_PACKET.to_ne_bytes());
    let mut far = link(0, 0, 0);
    far.extend(attribute(libc::IFLA_IFNAME, &terminated(peer)));
    far.extend(attribute(libc::IFLA_NET_NS_PID, &peer_pid.to_ne_bytes()));
    far.extend(&segments);
    let data = attribute(libc::IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &far));
    let kind = attribute(libc::IFLA_INFO_KIND, b"veth");
    let mut message = link(0, 0, 0);
    message.extend(attribute(libc::IFLA_IFNAME, &terminated(name)));
    message.extend(segments);
    message.extend(attribute(libc::IFLA_LINKINFO, &[kind, data].concat()));
    message
}

/// `struct ifaddrmsg` with the address as local and peer address, as for any broadcast device.
fn address_message(index: u32, address: Ipv4Addr) -> Vec<u8> {
    let family = u8::try_from(libc::AF_INET).unwrap_or(2);
    let mut message = vec![family, 30, 0, 0];
    message.extend(index.to_ne_bytes());
    message.extend(attribute(libc::IFA_LOCAL, &address.octets()));
    message.extend(attribute(libc::IFA_ADDRESS, &address.octets()));
    message
}

/// Length, type and value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

#[cfg(test)]
mod tests {
    use super::{acknowledged, attribute, request, veth};

    #[test]
    fn attributes_are_padded_but_say_their_true_length() {
        assert_eq!(attribute(3, b"ab"), [6, 0, 3, 0, b'a', b'b', 0, 0]);
        assert_eq!(attribute(3, b"abcd").len(), 8);
    }

    #[test]
    fn the_pair_request_holds_both_names() {
        let bytes = request(16, 0, &veth("near", "far", 77));
        assert_eq!(
            bytes.len(),
            usize::try_from(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).expect("fits")
        );
        for name in [&b"near\0"[..], b"far\0", b"veth"] {
            assert!(bytes.windows(name.len()).any(|part| part == name));
        }
    }

    #[test]
    fn an_acknowledgement_is_told_from_a_refusal() {
        let answer = |code: i32| {
            let mut bytes = request(2, 0, &code.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };
        assert!(acknowledged(&answer(0)).is_ok());
        assert_eq!(acknowledged(&answer(-libc::EPERM)).expect_err("refused").raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&[0; 3]).is_err());
    }
}
