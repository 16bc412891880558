//! The kernel side of faultline: all sensors and the fire drill's packet dropper in one BPF object.
//!
//! In: kernel hooks. Out: records on two rings, counters and histograms in mapped arrays. Each sensor is one
//! file named by its word; `read` is the only way to kernel memory, `emit` the only way out. No program here
//! decides policy. Every program loads and attaches alone; the agent picks the rungs this kernel offers.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "BPF programs talk to the kernel by raw pointers")]

mod block_io;
mod drill;
mod emit;
mod maps;
mod oom_kill;
mod packet;
mod packet_drop;
mod process_exit;
mod read;
mod sock;
mod task_hang;
mod tcp_connect;
mod tcp_reset;
mod tcp_retransmit;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
