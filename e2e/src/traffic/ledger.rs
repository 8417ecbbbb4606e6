//! The books of numbered packets: which came back, which are lost, how long each run of losses was.

use std::{collections::VecDeque, time::Duration};

use super::{DatagramReport, GAPS, Gap, PATIENCE};

/// Packets are entered in the order of their numbers, which start at 0. Times count from any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    report: DatagramReport,
    open: VecDeque<Entry>,
    gap: Option<OpenGap>,
}

#[derive(Debug)]
struct Entry {
    sent: Duration,
    back: bool,
}

#[derive(Debug)]
struct OpenGap {
    first: u64,
    last: u64,
    since: Duration,
}

impl Ledger {
    /// Enters the next packet; answers its number.
    pub(super) fn send(&mut self, now: Duration) -> u64 {
        let number = self.report.sent;
        self.report.sent += 1;
        self.open.push_back(Entry {
            sent: now,
            back: false,
        });
        number
    }

    /// The kernel refused to send the last packet.
    pub(super) fn refused(&mut self) {
        self.report.refused += 1;
    }

    /// A packet came back.
    pub(super) fn receive(&mut self, number: u64, now: Duration) {
        self.settle(now);
        let at = number
            .checked_sub(self.report.settled)
            .and_then(|at| usize::try_from(at).ok());
        match at {
            None if self.is_lost(number) => self.report.late += 1,
            None => self.report.duplicates += 1,
            Some(at) => match self.open.get_mut(at) {
                Some(entry) if entry.back => self.report.duplicates += 1,
                Some(entry) => {
                    entry.back = true;
                    self.report.received += 1;
                }
                // A number that was never sent is not ours to count.
                None => {}
            },
        }
        self.settle(now);
    }

    /// Decides about all packets whose time is over.
    pub(super) fn settle(&mut self, now: Duration) {
        while let Some(entry) = self.open.front() {
            if !entry.back && now.saturating_sub(entry.sent) < PATIENCE {
                return;
            }
            let (back, sent) = (entry.back, entry.sent);
            self.open.pop_front();
            let number = self.report.settled;
            self.report.settled += 1;
            if back {
                self.close_gap(sent);
            } else {
                self.report.lost += 1;
                let gap = self.gap.get_or_insert(OpenGap {
                    first: number,
                    last: number,
                    since: sent,
                });
                gap.last = number;
            }
        }
    }

    /// The books so far; `epoch` is the fixed moment's time since 1970.
    pub(super) fn report(&self, now: Duration, epoch: Duration) -> DatagramReport {
        let mut report = self.report.clone();
        if let Some(gap) = &self.gap {
            enter(&mut report, gap, now);
        }
        for gap in &mut report.gaps {
            gap.at_ms += milliseconds(epoch);
        }
        report
    }

    fn close_gap(&mut self, end: Duration) {
        if let Some(gap) = self.gap.take() {
            enter(&mut self.report, &gap, end);
        }
    }

    fn is_lost(&self, number: u64) -> bool {
        let within = |first: u64, last: u64| (first..=last).contains(&number);
        self.gap.as_ref().is_some_and(|gap| within(gap.first, gap.last))
            || self.report.gaps.iter().any(|gap| within(gap.first, gap.last))
    }
}

fn enter(report: &mut DatagramReport, gap: &OpenGap, end: Duration) {
    let length_ms = milliseconds(end.saturating_sub(gap.since));
    report.longest_gap_ms = report.longest_gap_ms.max(length_ms);
    if report.gaps.len() < GAPS {
        report.gaps.push(Gap {
            first: gap.first,
            last: gap.last,
            at_ms: milliseconds(gap.since),
            length_ms,
        });
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Sends `count` packets, one per 10 ms; those in `lost` do not come back, all others after 1 ms.
    fn run(count: u64, lost: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for at in 0..count {
            let number = ledger.send(ms(at * 10));
            if !lost.contains(&number) {
                ledger.receive(number, ms(at * 10 + 1));
            }
        }
        ledger
    }

    #[test]
    fn nothing_is_lost_while_it_may_still_come() {
        let mut ledger = run(10, &[4]);
        ledger.settle(ms(100));
        let report = ledger.report(ms(100), Duration::ZERO);
        assert_eq!((report.settled, report.received, report.lost), (4, 9, 0));
        ledger.receive(4, ms(1000));
        let report = ledger.report(ms(1000), Duration::ZERO);
        assert_eq!((report.settled, report.received, report.lost), (10, 10, 0));
        assert!(report.gaps.is_empty());
    }

    #[test]
    fn a_run_of_losses_is_one_gap_with_its_length() {
        let mut ledger = run(10, &[3, 4, 5, 8]);
        ledger.settle(ms(5000));
        let report = ledger.report(ms(5000), ms(1_000_000));
        assert_eq!(report.lost, 4);
        let gap = |first, last, at_ms, length_ms| Gap {
            first,
            last,
            at_ms,
            length_ms,
        };
        assert_eq!(report.gaps, [gap(3, 5, 1_000_030, 30), gap(8, 8, 1_000_080, 10)]);
        assert_eq!(report.longest_gap_ms, 30);
    }

    #[test]
    fn a_gap_without_end_lasts_until_now() {
        let mut ledger = run(5, &[3, 4]);
        ledger.settle(ms(4000));
        let report = ledger.report(ms(4000), Duration::ZERO);
        assert_eq!((report.lost, report.longest_gap_ms), (2, 3970));
    }

    #[test]
    fn late_packets_and_duplicates_are_told_apart() {
        let mut ledger = run(4, &[1]);
        ledger.settle(ms(3000));
        ledger.receive(1, ms(3001));
        ledger.receive(2, ms(3002));
        ledger.send(ms(3003));
        ledger.receive(4, ms(3004));
        ledger.receive(4, ms(3005));
        ledger.receive(99, ms(3006));
        let report = ledger.report(ms(3010), Duration::ZERO);
        assert_eq!(
            (report.lost, report.late, report.duplicates, report.received),
            (1, 1, 2, 4)
        );
        assert_eq!(report.missing(), 0, "what came late was not lost");
    }
}
