//! How many messages a consumer asks the broker for: as many as fit into its bytes.
//!
//! The broker counts unacknowledged messages, not their bytes. So a consumer begins with as many of
//! the largest accepted size as fit, and asks for more once it has seen that they are smaller. When it
//! holds too many bytes all the same, it is closed until half of them are settled, then asks for
//! fewer. Pure. Bound: what is held exceeds the bytes only when messages become larger than those
//! before, and then by what the broker had sent by then: the messages of one prefetch.

use crate::broker::Capacity;

/// What to do before the next message is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Receive.
    Receive,
    /// Open the consumer with this prefetch, in place of the present one.
    Open(u16),
    /// Close the consumer; what it received meanwhile is kept.
    Close,
    /// Wait until messages are settled.
    Wait,
}

/// The prefetch of one consumer.
#[derive(Debug)]
pub(super) struct Window {
    max: Capacity,
    /// None: the consumer is closed.
    prefetch: Option<u16>,
    /// Messages received since the prefetch was last considered.
    seen: u32,
    /// The largest of them, and the largest of those before.
    largest: u64,
    largest_before: u64,
}

impl Window {
    /// A window for messages of at most `expected` bytes; its consumer is not open yet.
    pub(super) fn new(max: Capacity, expected: u64) -> Self {
        Self { max, prefetch: None, seen: 0, largest: 0, largest_before: expected }
    }

    /// A message was received.
    pub(super) fn receive(&mut self, bytes: u64) {
        self.seen = self.seen.saturating_add(1);
        self.largest = self.largest.max(bytes);
    }

    /// What to do while so much is held.
    pub(super) fn next(&mut self, held: Capacity) -> Step {
        let Some(prefetch) = self.prefetch else {
            let has_room = held.messages < self.max.messages && held.bytes <= self.max.half().bytes;
            return if has_room || held.messages == 0 { self.open(held) } else { Step::Wait };
        };
        if held.bytes > self.max.bytes {
            return self.close();
        }
        if self.seen < u32::from(prefetch) {
            return Step::Receive;
        }
        // As many messages were seen as the broker may send at a time.
        let fitting = self.fitting(self.max);
        (self.seen, self.largest_before) = (0, std::mem::take(&mut self.largest));
        let held = u16::try_from(held.messages).unwrap_or(u16::MAX);
        match fitting.checked_sub(held) {
            _ if fitting < prefetch => self.close(),
            Some(more) if fitting / 2 >= prefetch && more > prefetch => self.open_with(more),
            _ => Step::Receive,
        }
    }

    fn close(&mut self) -> Step {
        self.prefetch = None;
        Step::Close
    }

    fn open(&mut self, held: Capacity) -> Step {
        let fitting = self.fitting(self.max.without(held));
        if self.largest > 0 {
            self.largest_before = self.largest;
        }
        (self.seen, self.largest) = (0, 0);
        self.open_with(fitting)
    }

    fn open_with(&mut self, prefetch: u16) -> Step {
        self.prefetch = Some(prefetch);
        Step::Open(prefetch)
    }

    /// How many messages of the largest size fit into this room: one at least.
    fn fitting(&self, room: Capacity) -> u16 {
        let largest = self.largest.max(self.largest_before).max(1);
        let fitting = (room.bytes / largest).min(u64::from(room.messages));
        u16::try_from(fitting).unwrap_or(u16::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Capacity = Capacity { messages: 100, bytes: 1_000 };

    fn held(messages: u32, bytes: u64) -> Capacity {
        Capacity { messages, bytes }
    }

    fn receive(window: &mut Window, messages: u32, bytes: u64) {
        for _ in 0..messages {
            window.receive(bytes);
        }
    }

    #[test]
    fn small_messages_open_the_window_to_its_full_size() {
        let mut window = Window::new(MAX, 200);
        assert_eq!(window.next(Capacity::NONE), Step::Open(5));
        receive(&mut window, 4, 1);
        assert_eq!(window.next(held(4, 4)), Step::Receive);
        receive(&mut window, 1, 1);
        // The largest size that is expected counts until a whole window was seen.
        assert_eq!(window.next(Capacity::NONE), Step::Receive);
        receive(&mut window, 5, 1);
        assert_eq!(window.next(held(5, 5)), Step::Open(95), "with those held, 100");
        receive(&mut window, 95, 1);
        assert_eq!(window.next(Capacity::NONE), Step::Receive, "it is hardly worth it");
    }

    #[test]
    fn large_messages_close_it_until_half_of_them_are_settled() {
        let mut window = Window::new(MAX, 10);
        assert_eq!(window.next(Capacity::NONE), Step::Open(100));
        receive(&mut window, 6, 200);
        assert_eq!(window.next(held(6, 1_200)), Step::Close);
        assert_eq!(window.next(held(3, 600)), Step::Wait);
        assert_eq!(window.next(held(2, 400)), Step::Open(3));
        receive(&mut window, 3, 200);
        assert_eq!(window.next(held(5, 1_000)), Step::Receive, "the broker sends no more");
        // A window of larger ones than before is closed before it is full.
        receive(&mut window, 3, 400);
        assert_eq!(window.next(held(2, 600)), Step::Close);
        assert_eq!(window.next(held(1, 400)), Step::Open(1));
    }

    #[test]
    fn a_full_window_of_small_messages_stays_as_it_is() {
        let mut window = Window::new(Capacity { messages: 4, bytes: 1_000 }, 200);
        assert_eq!(window.next(Capacity::NONE), Step::Open(4));
        receive(&mut window, 4, 1);
        assert_eq!(window.next(held(4, 4)), Step::Receive);
        receive(&mut window, 4, 1);
        assert_eq!(window.next(held(4, 4)), Step::Receive);
    }

    #[test]
    fn a_message_larger_than_the_bytes_is_held_alone() {
        let mut window = Window::new(MAX, 2_000);
        assert_eq!(window.next(Capacity::NONE), Step::Open(1));
        receive(&mut window, 1, 5_000);
        assert_eq!(window.next(held(1, 5_000)), Step::Close);
        assert_eq!(window.next(held(1, 5_000)), Step::Wait);
        assert_eq!(window.next(Capacity::NONE), Step::Open(1));
    }
}
