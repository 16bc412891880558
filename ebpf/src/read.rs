//! The only way to kernel memory: checked reads at resolved offsets. An [`ABSENT`] offset or a failed read is
//! `None`; a record then carries the field's `missing` bit instead of a guess.

use core::mem::MaybeUninit;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_probe_read_kernel};
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
        probe(self.0 + offset as u64)
    }

    /// Reads `N` bytes at `offset` into the start of an array that the caller has zeroed; whether it worked.
    /// Arrays go by reference: older verifiers refuse the half-initialised copies that `Option<[u8; 16]>` makes.
    #[inline(always)]
    pub fn read_start<const N: usize>(self, offset: u32, target: &mut [u8; 16]) -> bool {
        const { assert!(N <= 16) };
        offset != ABSENT && probe_bytes::<N>(self.0 + offset as u64, target)
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
    probe(ctx.as_ptr() as u64 + offset as u64)
}

/// Bytes at `offset` of a tracepoint's record into the start of a zeroed array; whether it worked.
#[inline(always)]
pub fn tp_start<const N: usize, C: EbpfContext>(ctx: &C, offset: u32, target: &mut [u8; 16]) -> bool {
    const { assert!(N <= 16) };
    offset != ABSENT && probe_bytes::<N>(ctx.as_ptr() as u64 + offset as u64, target)
}

/// Bytes at an address that was computed from read ones into the start of a zeroed array; whether it worked.
#[inline(always)]
pub fn probe_start<const N: usize>(address: u64, target: &mut [u8; 16]) -> bool {
    const { assert!(N <= 16) };
    probe_bytes::<N>(address, target)
}

/// Id of a task's cgroup in the default (v2) hierarchy.
#[inline(always)]
pub fn task_cgroup(task: Ptr) -> Option<u64> {
    task.follow(crate::maps::offset!(task_cgroups))?
        .follow(crate::maps::offset!(css_set_dfl_cgrp))?
        .follow(crate::maps::offset!(cgroup_kn))?
        .read(crate::maps::offset!(kernfs_id))
}

#[inline(always)]
fn probe_bytes<const N: usize>(address: u64, target: &mut [u8; 16]) -> bool {
    // SAFETY: the kernel checks the address; N is at most the length of the target.
    unsafe { bpf_probe_read_kernel(target.as_mut_ptr().cast(), N as u32, address as *const _) == 0 }
}

/// A checked read. The target is zeroed first: a failed read then leaves no uninitialised register behind,
/// which the verifier would refuse even where it is never used.
#[inline(always)]
fn probe<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the kernel checks the address and fails instead of faulting; the target has the size of T.
    let failed =
        unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    // SAFETY: only integers and arrays of them are read here; zeroes and whatever the kernel wrote are valid.
    if failed == 0 { Some(unsafe { value.assume_init() }) } else { None }
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
