//! Orders on their way from the reactor to the executor. In: an [`Order`], on a thread that neither waits nor allocates. Out:
//! the same order to a tokio task.
//!
//! A ring of fixed size and a bell. Rejected: tokio's own channel, which allocates a block for every 32 messages that
//! its receiver has not taken yet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use super::Order;

/// The reactor's end; when it is dropped, the executor finishes what it has begun.
#[derive(Debug)]
pub struct Orders {
    queue: rtrb::Producer<Order>,
    shared: Arc<Shared>,
}

/// The executor's end.
#[derive(Debug)]
pub struct OrdersIn {
    queue: rtrb::Consumer<Order>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Remembers one call that came before the wait.
    bell: Notify,
    closed: AtomicBool,
}

/// Both ends of a queue of so many orders.
pub fn orders(capacity: usize) -> (Orders, OrdersIn) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let shared = Arc::new(Shared::default());
    (Orders { queue: producer, shared: shared.clone() }, OrdersIn { queue: consumer, shared })
}

impl Orders {
    /// Hands an order on; `false` when the queue is full.
    #[must_use]
    pub fn send(&mut self, order: Order) -> bool {
        let sent = self.queue.push(order).is_ok();
        self.shared.bell.notify_one();
        sent
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.bell.notify_one();
    }
}

impl OrdersIn {
    /// The next order, if one is there.
    pub fn pop(&mut self) -> Option<Order> {
        self.queue.pop().ok()
    }

    /// Whether no more will come, but for those that are there.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Waits for the next order; `None` after the last one. May be dropped while it waits: nothing is lost.
    pub async fn recv(&mut self) -> Option<Order> {
        loop {
            // In this order: what was sent before the end is there by then.
            let closed = self.is_closed();
            if let Some(order) = self.pop() {
                return Some(order);
            }
            if closed {
                return None;
            }
            self.shared.bell.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::action::Outcome;

    fn order(id: u64) -> Order {
        Order::Outcome { id, outcome: Outcome::Unknown, at_ns: 0 }
    }

    #[test]
    fn everything_arrives_in_order_and_then_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (mut sender, mut receiver) = orders(4);
        let total = 10_000;
        let thread = std::thread::spawn(move || {
            for id in 0..total {
                while !sender.send(order(id)) {
                    std::thread::yield_now();
                }
            }
        });
        runtime.block_on(async {
            for id in 0..total {
                assert_eq!(receiver.recv().await, Some(order(id)));
            }
            assert_eq!(receiver.recv().await, None, "the sender is gone");
        });
        thread.join().expect("the sender ends");
    }

    #[test]
    fn a_full_queue_says_so() {
        let (mut sender, mut receiver) = orders(1);
        assert!(sender.send(order(1)) && !sender.send(order(2)));
        assert_eq!((receiver.pop(), receiver.is_closed()), (Some(order(1)), false));
        drop(sender);
        assert!(receiver.is_closed());
    }
}
