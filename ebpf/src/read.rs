//! The only way to kernel memory: checked reads at resolved offsets. An [`ABSENT`] offset or a failed read is
//! `None`; a record then carries the field's `missing` bit instead of a guess.

use aya_ebpf::{EbpfContext, helpers::bpf_probe_read_kernel};
use faultline_common::offsets::ABSENT;

/// A pointer into kernel memory that may only be followed through [`Ptr::read`].
#[derive(Clone, Copy)]
pub struct Ptr(u64);

impl Ptr {
    /// From a hook argument or a field; `None` for a null pointer.
    #[inline(always)]
    pub fn new(address: u64) -> Option<Self> {
        if address == 0 { None } else { Some(Self(address)) }
    }

    /// The address, as an identity.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0
    }

    /// Reads a `T` at `offset` bytes behind the pointer.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: u32) -> Option<T> {
        if offset == ABSENT {
            return None;
        }
        // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
        unsafe { bpf_probe_read_kernel((self.0 + offset as u64) as *const T) }.ok()
    }

    /// Reads a pointer at `offset` and makes it the next step of a walk.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Option<Self> {
        Self::new(self.read::<u64>(offset)?)
    }
}

/// Argument `index` of a raw or BTF tracepoint: both hand over an array of u64.
#[inline(always)]
pub fn arg<C: EbpfContext>(ctx: &C, index: u32) -> u64 {
    let args: *const u64 = ctx.as_ptr().cast();
    // SAFETY: the verifier checks the constant index against the tracepoint's prototype.
    unsafe { *args.add(index as usize) }
}

/// Field at `offset` of a tracepoint's record; `None` where the running kernel has no such field.
#[inline(always)]
pub fn tp_field<T: Copy, C: EbpfContext>(ctx: &C, offset: u32) -> Option<T> {
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the offset comes from the running kernel's `format`; the read is checked by the kernel.
    unsafe { bpf_probe_read_kernel(ctx.as_ptr().cast::<u8>().add(offset as usize).cast::<T>()) }.ok()
}

/// Takes a value or marks `bit` as missing and uses the default.
#[inline(always)]
pub fn or_missing<T: Default>(value: Option<T>, missing: &mut u64, bit: u64) -> T {
    match value {
        Some(value) => value,
        None => {
            *missing |= bit;
            T::default()
        }
    }
}
