//! User-space side of the shared layouts: aya may hand them to the kernel, the agent may read them from bytes.
#![expect(unsafe_code, reason = "marks plain-data layouts as such for aya and byte access")]

use crate::event::{BlockIo, Header, OomKill, PacketDrop, ProcessExit, TaskHang, TcpConnect, TcpReset, TcpRetransmit};
use crate::offsets::Offsets;

// SAFETY: repr(C), only u32 fields, no padding, no pointers.
unsafe impl aya::Pod for Offsets {}

macro_rules! from_bytes {
    ($($name:ident),*) => {$(
        impl $name {
            /// Copies a record out of exactly as many bytes as it has; `None` for any other length.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                if bytes.len() != size_of::<Self>() {
                    return None;
                }
                // SAFETY: the length was checked; the type is repr(C), without padding, and every bit
                // pattern of its integers is valid; the read is unaligned on purpose.
                Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
            }

            /// The record as bytes.
            pub fn as_bytes(&self) -> &[u8] {
                // SAFETY: repr(C) without padding (tested in `event`), so that all bytes are initialised.
                unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
            }
        }
    )*};
}

from_bytes!(Header, ProcessExit, OomKill, BlockIo, TcpRetransmit, TaskHang, TcpConnect, TcpReset, PacketDrop);
