//! Records of flows: both ends in, the keys of a JSON line or the words for people out. All TCP records and dropped packets
//! share them. A field that the kernel did not tell is null, or `?`.

use faultline_common::event::{FLAG_GIVEN_UP, Header, PacketDrop, TcpConnect, TcpReset, TcpRetransmit};
use serde_json::{Map, Value, json};

use super::Exporter;
use crate::model::{
    entity::ip,
    event::{has, latency_ns_of, tcp_state_name},
};

const AF_INET6: u16 = 10;
const TCP: u16 = 6;
const UDP: u16 = 17;

/// Both ends of a record, with the `missing` bits of their fields.
struct Ends<'a> {
    header: &'a Header,
    family: (u64, u16),
    saddr: (u64, &'a [u8; 16]),
    daddr: (u64, &'a [u8; 16]),
    sport: (u64, u16),
    dport: (u64, u16),
}

macro_rules! ends {
    ($type:ty, $e:expr) => {
        Ends {
            header: &$e.header,
            family: (const { <$type>::bit("family") }, $e.family),
            saddr: (const { <$type>::bit("saddr") }, &$e.saddr),
            daddr: (const { <$type>::bit("daddr") }, &$e.daddr),
            sport: (const { <$type>::bit("sport") }, $e.sport),
            dport: (const { <$type>::bit("dport") }, $e.dport),
        }
    };
}

impl Ends<'_> {
    fn told<T: serde::Serialize>(&self, bit: u64, value: T) -> Value {
        if has(self.header, bit) { json!(value) } else { Value::Null }
    }

    fn is_v6(&self) -> bool {
        self.family.1 == AF_INET6
    }

    fn json(&self, map: &mut Map<String, Value>) {
        map.insert("family".into(), self.told(self.family.0, if self.is_v6() { "ipv6" } else { "ipv4" }));
        for (address, port, names) in
            [(self.saddr, self.sport, ["saddr", "sport"]), (self.daddr, self.dport, ["daddr", "dport"])]
        {
            // Without the family nobody knows which of the bytes are the address.
            map.insert(names[0].into(), self.told(address.0 | self.family.0, ip(address.1, self.is_v6())));
            map.insert(names[1].into(), self.told(port.0, port.1));
        }
    }

    fn text(&self) -> String {
        let end = |address: (u64, &[u8; 16]), port: u16| {
            let known = has(self.header, address.0 | self.family.0);
            let address = if known { ip(address.1, self.is_v6()).to_string() } else { "?".into() };
            format!("{address}:{port}")
        };
        format!("{} -> {}", end(self.saddr, self.sport.1), end(self.daddr, self.dport.1))
    }
}

/// Keys of a `tcp_retransmit` line.
pub fn retransmit(e: &TcpRetransmit, map: &mut Map<String, Value>) {
    let ends = ends!(TcpRetransmit, e);
    ends.json(map);
    map.insert("state".into(), ends.told(const { TcpRetransmit::bit("state") }, tcp_state_name(e.state)));
    map.insert("segs_out".into(), ends.told(const { TcpRetransmit::bit("segs_out") }, e.segs_out));
    map.insert("total_retrans".into(), ends.told(const { TcpRetransmit::bit("total_retrans") }, e.total_retrans));
}

/// Keys of a `tcp_connect` line.
pub fn connect(e: &TcpConnect, map: &mut Map<String, Value>) {
    let ends = ends!(TcpConnect, e);
    ends.json(map);
    map.insert("state".into(), tcp_state_name(e.state).into());
    map.insert("error".into(), e.error.into());
    map.insert("given_up".into(), is_given_up(e).into());
    map.insert("latency_ns".into(), json!(latency_ns_of(&e.header, e.latency_ns)));
}

fn is_given_up(e: &TcpConnect) -> bool {
    e.header.flags & FLAG_GIVEN_UP != 0
}

/// Keys of a `tcp_reset` line.
pub fn reset(e: &TcpReset, map: &mut Map<String, Value>) {
    let ends = ends!(TcpReset, e);
    ends.json(map);
    map.insert("state".into(), ends.told(const { TcpReset::bit("state") }, tcp_state_name(e.state)));
    map.insert("sent".into(), (e.sent != 0).into());
}

/// Keys of a `packet_drop` line.
pub fn drop(exporter: &Exporter, e: &PacketDrop, map: &mut Map<String, Value>) {
    let ends = ends!(PacketDrop, e);
    ends.json(map);
    map.insert("protocol".into(), ends.told(const { PacketDrop::bit("protocol") }, protocol(e.protocol)));
    map.insert("reason".into(), ends.told(const { PacketDrop::bit("reason") }, exporter.names().reason(e.reason)));
    map.insert("ifindex".into(), ends.told(const { PacketDrop::bit("ifindex") }, e.ifindex));
    map.insert("bytes".into(), ends.told(const { PacketDrop::bit("bytes") }, e.bytes));
    map.insert("skipped".into(), e.skipped.into());
}

/// The same for people.
pub fn retransmit_words(e: &TcpRetransmit) -> String {
    format!("{} {}", ends!(TcpRetransmit, e).text(), tcp_state_name(e.state))
}

/// The same for people.
pub fn connect_words(e: &TcpConnect) -> String {
    let error = std::io::Error::from_raw_os_error(e.error.cast_signed());
    let what = match e.error {
        0 if is_given_up(e) => "given up".to_owned(),
        0 => "connected late".to_owned(),
        _ => error.to_string(),
    };
    let took = latency_ns_of(&e.header, e.latency_ns)
        .map_or(String::new(), |ns| format!(" after {}", super::text::duration(ns)));
    format!("{} {}: {what}{took}", ends!(TcpConnect, e).text(), tcp_state_name(e.state))
}

/// The same for people.
pub fn reset_words(e: &TcpReset) -> String {
    let by = if e.sent != 0 { "reset by this node" } else { "reset by the peer" };
    // A segment for which there was no socket met no state.
    let known = has(&e.header, const { TcpReset::bit("state") });
    format!("{} {}, {by}", ends!(TcpReset, e).text(), if known { tcp_state_name(e.state) } else { "no socket" })
}

/// The same for people.
pub fn drop_words(exporter: &Exporter, e: &PacketDrop) -> String {
    let known = has(&e.header, const { PacketDrop::bit("reason") });
    let reason = if known { exporter.names().reason(e.reason) } else { "no reason told".into() };
    format!("{} {} of {} bytes: {reason}", ends!(PacketDrop, e).text(), protocol(e.protocol), e.bytes)
}

fn protocol(number: u16) -> String {
    match number {
        TCP => "tcp".into(),
        UDP => "udp".into(),
        1 | 58 => "icmp".into(),
        other => other.to_string(),
    }
}
