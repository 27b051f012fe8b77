//! Makes the machine's clock follow the disciplined one. Only with `--clock system`; nothing else touches the machine.
//!
//! Model: `CLOCK_REALTIME` advances with the same oscillator as the local clock, at the rate `1 + nominal + frequency`.
//! The frequency is ours to set, within 500 ppm and in steps of 2^-16 ppm (15 parts per trillion, 1.3 µs a day).
//! Because it is absolute, following a clock of known rate needs no control loop: we set that rate. What is left, from
//! rounding, from our calls coming late and from others who set the clock, is worked off as a small addition to it.
//!
//! The nominal rate is zero on most machines. It is not when another daemon has left a kernel tick other than 10 ms:
//! chrony does, on an oscillator that is wrong by more than 50 ppm. A tick is a whole number of microseconds, so the
//! nominal rate is a multiple of 100 ppm, and is recognised by what the clock does with the frequency we gave it.
//!
//! Only a disciplined step steps the machine's clock. Leap second flags stay as they are. It remains marked as not
//! synchronised to UTC, because it is not.
//!
//! Sources: adjtimex(2); kernel/time/ntp.c; chrony's sys_linux.c.

use std::fmt;
use std::fs;
use std::io;

use clock_steering::unix::UnixClock;
use clock_steering::{Clock, TimeOffset};

use crate::local_clock::Pair;
use crate::time::{LocalTime, Skew, Span, Time};

/// A deviation is worked off over this time. Shorter: the uncertainty of reading two clocks (100 ns) goes into the
/// rate (25 ppb at 4 s). Longer: deviations last. A call later than half of it makes it longer.
const HORIZON: Span = Span::from_secs(4);

/// The working off changes the rate by no more than this: a deviation of 1 ms takes 10 s. It is on top of a slew, and
/// what times itself by this clock has agreed to the slew only.
const CATCH_UP_LIMIT: Skew = Skew::from_ppm(100);

/// The clock is where our frequency took it, give or take this and what a tick unlike ours could do in the meantime. Farther off,
/// and somebody else has set it.
const FOREIGN_STEP: Span = Span::from_millis(10);

/// What the kernel takes: one unit of 2^-16 ppm (15.3 parts per trillion) less than 500 ppm.
const FREQUENCY_LIMIT: Skew = Skew::from_ppt(499_999_984);

/// One microsecond in a kernel tick of 10 ms.
const TICK_UNIT: Skew = Skew::from_ppm(100);

/// Over less than this, the uncertainty of reading two clocks (rarely above 1 µs) is too near half a tick unit.
const SHORTEST_MEASUREMENT: Span = Span::from_millis(100);

/// What can be done to a clock: the machine's, or in tests a made-up one.
pub trait Steering {
    /// Stops whatever else steers it inside the kernel. Comes before everything else.
    ///
    /// # Errors
    /// The system does not allow it; nothing has changed.
    fn take_over(&mut self) -> io::Result<()>;

    /// Sets its rate relative to nominal, and says what it could take.
    ///
    /// # Errors
    /// The system does not allow it; nothing has changed.
    fn set_frequency(&mut self, frequency: Skew) -> io::Result<Skew>;

    /// Makes it jump; forwards when positive.
    ///
    /// # Errors
    /// The system does not allow it; nothing has changed.
    fn step(&mut self, by: Span) -> io::Result<()>;
}

/// `CLOCK_REALTIME`.
#[derive(Debug)]
pub struct MachineClock(UnixClock);

impl Steering for MachineClock {
    fn take_over(&mut self) -> io::Result<()> {
        Ok(self.0.disable_kernel_ntp_algorithm()?)
    }

    fn set_frequency(&mut self, frequency: Skew) -> io::Result<Skew> {
        let ppm = taken_ppm(frequency);
        // In parts per million, whatever the crate's documentation says ("milliseconds per second").
        self.0.set_frequency(ppm)?;
        Ok(Skew::from_ratio(ppm / 1e6))
    }

    fn step(&mut self, by: Span) -> io::Result<()> {
        self.0.step_clock(time_offset(by)?)?;
        Ok(())
    }
}

/// The frequency that the kernel takes in the place of another: in its range, and a multiple of 2^-16 ppm.
fn taken_ppm(frequency: Skew) -> f64 {
    (frequency.clamped(FREQUENCY_LIMIT).as_ratio() * 1e6 * 65_536.0).round() / 65_536.0
}

/// In whole seconds, rounded down, and the nanoseconds left, which are never negative: what the kernel wants.
///
/// # Errors
/// The kernel counts seconds in 32 bits, and these are more than 68 years.
#[allow(clippy::useless_conversion, reason = "seconds have 32 bits on some machines, and here 64")]
fn time_offset(span: Span) -> io::Result<TimeOffset> {
    const NANOS_PER_SEC: i64 = 1_000_000_000;
    let nanos = span.as_nanos();
    let seconds = nanos.div_euclid(NANOS_PER_SEC).try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(TimeOffset { seconds, nanos: u32::try_from(nanos.rem_euclid(NANOS_PER_SEC)).unwrap_or(0) })
}

/// Why the machine's clock is not steered.
#[derive(Debug)]
pub enum SystemClockError {
    /// The process lacks CAP_SYS_TIME.
    NoCapability,
    /// It has CAP_SYS_TIME, but only in a user namespace, where it does not extend to the clock.
    UserNamespace,
    /// The system refused.
    Refused {
        /// What was tried.
        attempt: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody else has set it since the last call.
    SetByOthers {
        /// By so much; forwards when positive.
        by: Span,
    },
}

impl fmt::Display for SystemClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCapability => {
                f.write_str("--clock system needs the capability CAP_SYS_TIME (run as root or grant it)")
            }
            Self::UserNamespace => f.write_str(
                "--clock system needs the capability CAP_SYS_TIME on the machine itself; a user namespace (a rootless \
                 container) cannot have it",
            ),
            Self::SetByOthers { by } => write!(f, "somebody else has set the machine's clock by {by}"),
            Self::Refused { attempt, error } => write!(f, "cannot {attempt} the machine's clock: {error}"),
        }
    }
}

impl std::error::Error for SystemClockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused { error, .. } => Some(error),
            Self::NoCapability | Self::UserNamespace | Self::SetByOthers { .. } => None,
        }
    }
}

fn refused(attempt: &'static str) -> impl FnOnce(io::Error) -> SystemClockError {
    move |error| SystemClockError::Refused { attempt, error }
}

/// What the machine's clock is to do until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What the disciplined clock shows now, after a step if there is one.
    pub time: Time,
    /// Its mean rate until the next call relative to the local clock, a slew included.
    pub rate: Skew,
    /// Its rate without a slew: what the machine's clock is left with when we stop.
    pub lasting_rate: Skew,
}

/// The machine's clock, in our hands from the first [`SystemClock::follow`] until it is dropped.
#[derive(Debug)]
pub struct SystemClock<S: Steering = MachineClock> {
    steering: S,
    /// The last call; `None` before the first.
    last: Option<Followed>,
    /// The rate of the clock at frequency zero, relative to the local clock.
    nominal: Skew,
    /// What the latest measurement takes the nominal rate for. Two in a row are believed: one may be a jump.
    nominal_measured: Skew,
}

/// How a call left the clock.
#[derive(Clone, Copy, Debug)]
struct Followed {
    local: LocalTime,
    system: Time,
    frequency: Skew,
    lasting_rate: Skew,
}

impl SystemClock<MachineClock> {
    /// Checks that this process may set the machine's clock. Changes nothing yet.
    ///
    /// # Errors
    /// It may not. Where that cannot be told (no /proc), the first [`SystemClock::follow`] will.
    pub fn open() -> Result<Self, SystemClockError> {
        let status = fs::read_to_string("/proc/self/status").ok();
        let user_namespace = fs::read_link("/proc/self/ns/user").ok();
        check_privilege(status.as_deref(), user_namespace.as_deref().and_then(|link| link.to_str()))?;
        Ok(Self::new(MachineClock(UnixClock::CLOCK_REALTIME)))
    }
}

impl<S: Steering> SystemClock<S> {
    /// Nothing is done to the clock before the first [`SystemClock::follow`].
    fn new(steering: S) -> Self {
        Self { steering, last: None, nominal: Skew::ZERO, nominal_measured: Skew::ZERO }
    }

    /// Sets the clock on its way until the next call, which should come within a second or two: `pair` says where it
    /// is, `target` where it ought to be. It jumps by `step`, if any, and never otherwise. Returns the frequency set.
    ///
    /// # Errors
    /// The system refuses: the clock runs on as it was, except that a step may have been made. Or somebody else has set the clock:
    /// nothing was done, and the next call takes it for new.
    pub fn follow(&mut self, pair: Pair, target: Target, step: Option<Span>) -> Result<Skew, SystemClockError> {
        let Pair { local, mut system, .. } = pair;
        let elapsed = match self.last {
            None => {
                self.steering.take_over().map_err(refused("take over"))?;
                Span::ZERO
            }
            Some(last) if let Some(by) = self.foreign_step(last, local, system) => {
                self.let_go()?;
                return Err(SystemClockError::SetByOthers { by });
            }
            Some(last) => {
                self.measure_nominal(last, local, system);
                local - last.local
            }
        };
        if let Some(by) = step {
            self.steering.step(by).map_err(refused("step"))?;
            system = system + by;
        }
        // Twice the time until the next call, taken from the time since the last: half of the deviation is worked off
        // by then. Faster, and calls that come rarely would swing it from side to side.
        let horizon = HORIZON.max(elapsed.times(2));
        let lack = target.time - system;
        let catch_up = Skew::from_ratio(lack.as_secs_f64() / horizon.as_secs_f64()).clamped(CATCH_UP_LIMIT);
        let wanted = target.rate + catch_up - self.nominal;
        let frequency = self.steering.set_frequency(wanted).map_err(refused("set the rate of"))?;
        self.last = Some(Followed { local, system, frequency, lasting_rate: target.lasting_rate });
        Ok(frequency)
    }

    /// Leaves the clock at the rate at which it agrees with the group, without a slew or catching up that nobody would end, until the
    /// next [`SystemClock::follow`].
    ///
    /// # Errors
    /// The system refuses: the clock keeps the rate that it has.
    pub fn let_go(&mut self) -> Result<(), SystemClockError> {
        if let Some(last) = self.last.take() {
            self.steering.set_frequency(last.lasting_rate - self.nominal).map_err(refused("set the rate of"))?;
        }
        Ok(())
    }

    /// How far somebody else has set it, if anybody has.
    fn foreign_step(&self, last: Followed, local: LocalTime, system: Time) -> Option<Span> {
        let elapsed = local - last.local;
        let expected = elapsed + (self.nominal + last.frequency).over(elapsed);
        let by = (system - last.system) - expected;
        (by.abs() > FOREIGN_STEP + Skew::MAX.over(elapsed)).then_some(by)
    }

    /// Learns the nominal rate from how far the clock has come with the frequency it was given.
    fn measure_nominal(&mut self, last: Followed, local: LocalTime, system: Time) {
        let elapsed = local - last.local;
        if elapsed < SHORTEST_MEASUREMENT {
            return;
        }
        let gained = (system - last.system) - elapsed;
        let measured = Skew::from_ratio(gained.as_secs_f64() / elapsed.as_secs_f64()) - last.frequency;
        if measured.abs() > Skew::MAX {
            return; // The kernel's tick goes no further than 10 %: somebody has set the clock.
        }
        let unit = TICK_UNIT.as_ppt();
        let measured = Skew::from_ppt((measured.as_ppt() + unit / 2).div_euclid(unit) * unit);
        if measured == self.nominal_measured {
            self.nominal = measured;
        }
        self.nominal_measured = measured;
    }
}

impl<S: Steering> Drop for SystemClock<S> {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            log::error!("the machine's clock keeps a rate that may not last: {error}");
        }
    }
}

/// Whether a process may set the machine's clock, by its `/proc/self/status` and where `/proc/self/ns/user` points;
/// what is not known counts as granted.
///
/// The only call that would tell outright is one that changes something. A capability counts only in the machine's own
/// user namespace, and that one has the same number on every machine: the identity map of `/proc/self/uid_map` proves
/// less, because a privileged parent may give it to another namespace.
fn check_privilege(status: Option<&str>, user_namespace: Option<&str>) -> Result<(), SystemClockError> {
    /// Bit 25 of the capability sets, in linux/capability.h.
    const CAP_SYS_TIME: u64 = 1 << 25;
    /// USER_NS_INIT_INO in linux/nsfs.h, 0xEFFFFFFD.
    const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

    let effective = status
        .and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapEff:")))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    if effective.is_some_and(|set| set & CAP_SYS_TIME == 0) {
        return Err(SystemClockError::NoCapability);
    }
    if user_namespace.is_some_and(|namespace| namespace != INITIAL_USER_NAMESPACE) {
        return Err(SystemClockError::UserNamespace);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What was done to a made-up clock, its frequency aside.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Act {
        TookOver,
        Stepped(Span),
    }

    /// A kernel's clock in integers, advanced by hand. Clones are the same clock.
    #[derive(Clone, Debug, Default)]
    struct FakeKernel(Rc<RefCell<State>>);

    #[derive(Debug, Default)]
    struct State {
        /// In nanoseconds.
        raw: i64,
        /// In nanoseconds times [`FINE`], so that nothing is ever rounded.
        system: i128,
        /// In 2^-16 ppm, as adjtimex(2) has it.
        word: i64,
        /// What the tick adds, in ppm.
        tick_ppm: i64,
        acts: Vec<Act>,
        refuses: bool,
    }

    /// One, in units of 2^-16 ppm.
    const FINE: i128 = 65_536 * 1_000_000;

    impl FakeKernel {
        fn new() -> Self {
            let kernel = Self::default();
            kernel.0.borrow_mut().raw = 1_000_000_000_000;
            kernel.0.borrow_mut().system = 1_700_000_000_000_000_000 * FINE;
            kernel
        }

        fn advance(&self, span: Span) {
            let mut state = self.0.borrow_mut();
            state.raw += span.as_nanos();
            let rate = FINE + i128::from(state.word + state.tick_ppm * 65_536);
            state.system += i128::from(span.as_nanos()) * rate;
        }

        /// Somebody else sets the clock.
        fn jump(&self, by: Span) {
            self.0.borrow_mut().system += i128::from(by.as_nanos()) * FINE;
        }

        fn pair(&self) -> Pair {
            let state = self.0.borrow();
            let system = Time::from_nanos(i64::try_from(state.system / FINE).unwrap());
            Pair { local: LocalTime::from_nanos(state.raw), system, uncertainty: Span::ZERO }
        }

        fn frequency(&self) -> Skew {
            Skew::from_ppt(self.0.borrow().word * 1_000_000 / 65_536)
        }

        fn acts(&self) -> Vec<Act> {
            self.0.borrow().acts.clone()
        }

        fn unless_refusing(&self, act: impl FnOnce(&mut State)) -> io::Result<()> {
            let mut state = self.0.borrow_mut();
            if state.refuses {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            act(&mut state);
            Ok(())
        }
    }

    impl Steering for FakeKernel {
        fn take_over(&mut self) -> io::Result<()> {
            self.unless_refusing(|state| state.acts.push(Act::TookOver))
        }

        fn set_frequency(&mut self, frequency: Skew) -> io::Result<Skew> {
            let word = (frequency.as_ppt() * 65_536 + 500_000).div_euclid(1_000_000).clamp(-32_767_999, 32_767_999);
            self.unless_refusing(|state| {
                assert_eq!(state.acts.first(), Some(&Act::TookOver), "the kernel's own steering goes on");
                state.word = word;
            })?;
            Ok(self.frequency())
        }

        fn step(&mut self, by: Span) -> io::Result<()> {
            self.unless_refusing(|state| state.acts.push(Act::Stepped(by)))?;
            self.jump(by);
            Ok(())
        }
    }

    /// A disciplined clock that runs straight on.
    #[derive(Clone, Copy)]
    struct Line {
        from: Pair,
        rate: Skew,
    }

    impl Line {
        /// What the machine's clock lacks to this one.
        fn lack(&self, kernel: &FakeKernel) -> Span {
            self.target(kernel).time - kernel.pair().system
        }

        fn target(&self, kernel: &FakeKernel) -> Target {
            let elapsed = kernel.pair().local - self.from.local;
            let time = self.from.system + elapsed + self.rate.over(elapsed);
            Target { time, rate: self.rate, lasting_rate: self.rate }
        }

        /// Lets the clock follow so often, with so much time between; says what it lacks in the end.
        fn lead(&self, kernel: &FakeKernel, clock: &mut SystemClock<FakeKernel>, calls: usize, every: Span) -> Span {
            for _ in 0..calls {
                clock.follow(kernel.pair(), self.target(kernel), None).unwrap();
                kernel.advance(every);
            }
            self.lack(kernel)
        }
    }

    const SECOND: Span = Span::from_secs(1);

    /// A machine, its clock in our hands, and a disciplined clock that is ahead of it.
    fn machine(ahead: Span, rate: Skew) -> (FakeKernel, SystemClock<FakeKernel>, Line) {
        let kernel = FakeKernel::new();
        let from = Pair { system: kernel.pair().system + ahead, ..kernel.pair() };
        (kernel.clone(), SystemClock::new(kernel), Line { from, rate })
    }

    #[test]
    fn a_clock_that_agrees_follows_to_the_nanosecond() {
        let (kernel, mut clock, line) = machine(Span::ZERO, Skew::from_ppt(37_123_456));
        for _ in 0..1_000 {
            // Rounding the frequency costs 8e-12, and showing whole nanoseconds one.
            assert!(line.lead(&kernel, &mut clock, 1, SECOND).abs() <= Span::from_nanos(1));
        }
        assert_eq!(kernel.acts(), [Act::TookOver]);
    }

    #[test]
    fn a_deviation_is_worked_off_without_a_step_or_swinging() {
        for micros in [40, -40, 2_000, -2_000] {
            let (kernel, mut clock, line) = machine(Span::from_micros(micros), Skew::from_ppm(-20));
            let mut lack = line.lack(&kernel);
            for _ in 0..100 {
                let next = line.lead(&kernel, &mut clock, 1, SECOND);
                assert!(next.abs() <= lack.abs().max(Span::from_nanos(2)), "{next} after {lack}");
                lack = next;
            }
            assert!(lack.abs() <= Span::from_nanos(2), "{lack} of {micros} µs is left");
            assert_eq!(kernel.acts(), [Act::TookOver]);
        }
    }

    #[test]
    fn rare_and_irregular_calls_do_not_swing_it() {
        let (kernel, mut clock, line) = machine(Span::from_micros(10), Skew::from_ppm(20));
        for every in [64, 64, 64, 1, 1, 30, 64] {
            line.lead(&kernel, &mut clock, 5, Span::from_secs(every));
        }
        assert!(line.lack(&kernel).abs() <= Span::from_nanos(2), "{}", line.lack(&kernel));
    }

    #[test]
    fn it_steps_when_told_and_by_no_more() {
        for secs in [3, -3_600] {
            let (kernel, mut clock, line) = machine(Span::from_secs(secs), Skew::ZERO);
            line.lead(&kernel, &mut clock, 20, SECOND);
            assert_eq!(kernel.acts(), [Act::TookOver], "a deviation alone is no reason");
            let by = line.lack(&kernel);
            let frequency = clock.follow(kernel.pair(), line.target(&kernel), Some(by)).unwrap();
            assert_eq!(kernel.acts(), [Act::TookOver, Act::Stepped(by)]);
            assert_eq!((line.lack(&kernel), frequency), (Span::ZERO, Skew::ZERO));
        }
    }

    #[test]
    fn the_tick_that_another_daemon_left_is_found_and_allowed_for() {
        for tick_ppm in [-100, 300] {
            let (kernel, mut clock, line) = machine(Span::ZERO, Skew::from_ppt(62_123_456));
            kernel.0.borrow_mut().tick_ppm = tick_ppm;
            let lack = line.lead(&kernel, &mut clock, 100, SECOND);
            assert!(lack.abs() <= Span::from_nanos(2), "{lack}");
            drop(clock);
            let off = kernel.frequency() + Skew::from_ppm(tick_ppm) - line.rate;
            assert!(off.abs() <= Skew::from_ppt(16), "left at {off}");
        }
    }

    #[test]
    fn a_change_that_a_tick_could_have_made_once_does_not_change_what_we_think_of_the_rate() {
        for by in [Span::from_millis(20), Span::from_millis(-80)] {
            let (kernel, mut clock, line) = machine(Span::ZERO, Skew::from_ppm(20));
            line.lead(&kernel, &mut clock, 5, SECOND);
            kernel.jump(by);
            for _ in 0..5 {
                line.lead(&kernel, &mut clock, 1, SECOND);
                assert_eq!(clock.nominal, Skew::ZERO);
            }
        }
    }

    #[test]
    fn somebody_else_who_sets_the_clock_is_noticed_and_the_clock_let_go() {
        let (kernel, mut clock, line) = machine(Span::from_millis(1), Skew::from_ppm(12));
        line.lead(&kernel, &mut clock, 1, SECOND);
        for by in [3, 3, -3, 7_000_000_000, -7_000_000_000].map(Span::from_secs) {
            kernel.jump(by);
            let error = clock.follow(kernel.pair(), line.target(&kernel), None).unwrap_err();
            assert_eq!(error.to_string(), format!("somebody else has set the machine's clock by {by}"));
            assert_eq!(kernel.frequency(), Skew::from_ppm(12), "without the slew in progress");
            // From where it is now.
            let afresh = Line { from: kernel.pair(), ..line };
            afresh.lead(&kernel, &mut clock, 2, SECOND);
            assert_eq!(clock.nominal, Skew::ZERO);
        }
        kernel.jump(Span::from_millis(5));
        clock.follow(kernel.pair(), line.target(&kernel), None).unwrap();
    }

    #[test]
    fn calls_in_quick_succession_measure_nothing() {
        let (kernel, mut clock, line) = machine(Span::ZERO, Skew::ZERO);
        for _ in 0..10 {
            line.lead(&kernel, &mut clock, 1, Span::from_millis(2));
            kernel.jump(Span::from_micros(1)); // The uncertainty of a pair: 500 ppm of 2 ms.
        }
        assert_eq!(clock.nominal, Skew::ZERO);
    }

    #[test]
    fn it_leaves_the_lasting_rate_behind() {
        let (kernel, mut clock, line) = machine(Span::from_millis(1), Skew::from_ppm(12));
        let slewing = Target { rate: Skew::from_ppm(312), ..line.target(&kernel) };
        assert_eq!(clock.follow(kernel.pair(), slewing, None).unwrap(), Skew::from_ppm(412));
        drop(clock);
        assert_eq!(kernel.frequency(), Skew::from_ppm(12));
    }

    #[test]
    fn a_clock_that_was_never_led_is_not_touched() {
        let (kernel, clock, _) = machine(SECOND, Skew::from_ppm(12));
        kernel.0.borrow_mut().word = 77;
        drop(clock);
        assert_eq!((kernel.acts(), kernel.0.borrow().word), (Vec::new(), 77));
    }

    #[test]
    fn a_refusal_is_reported_and_survived() {
        let (kernel, mut clock, line) = machine(Span::ZERO, Skew::from_ppm(12));
        kernel.0.borrow_mut().refuses = true;
        let error = clock.follow(kernel.pair(), line.target(&kernel), None).unwrap_err();
        assert_eq!(error.to_string(), "cannot take over the machine's clock: permission denied");
        kernel.0.borrow_mut().refuses = false;
        line.lead(&kernel, &mut clock, 1, SECOND);
        kernel.0.borrow_mut().refuses = true;
        for step in [None, Some(SECOND)] {
            clock.follow(kernel.pair(), line.target(&kernel), step).unwrap_err();
        }
        assert_eq!(kernel.acts(), [Act::TookOver]);
        kernel.0.borrow_mut().refuses = false;
        assert!(line.lead(&kernel, &mut clock, 10, SECOND).abs() <= Span::from_nanos(2));
    }

    #[test]
    fn frequencies_are_what_the_kernel_takes() {
        for (ppt, ppm) in [
            (0, 0.0),
            (1_000_000, 1.0),
            (-1_000_000, -1.0),
            (8, 1.0 / 65_536.0),
            (7, 0.0),
            (500_000_000, 500.0 - 1.0 / 65_536.0),
            (-90_000_000_000, -500.0 + 1.0 / 65_536.0),
        ] {
            let taken = taken_ppm(Skew::from_ppt(ppt));
            assert!((taken - ppm).abs() < 1e-9, "{ppt}: {taken}");
        }
    }

    #[test]
    fn steps_backwards_have_positive_nanoseconds() {
        for (nanos, seconds, rest) in [
            (1_500_000_000, 1, 500_000_000),
            (-1, -1, 999_999_999),
            (-1_500_000_000, -2, 500_000_000),
            (-2_000_000_000, -2, 0),
        ] {
            assert_eq!(time_offset(Span::from_nanos(nanos)).unwrap(), TimeOffset { seconds, nanos: rest });
        }
    }

    #[test]
    fn without_the_capability_on_the_machine_itself_it_is_refused() {
        let status = |set: &str| format!("Name:\tberkeleyd\nCapPrm:\t000001ffffffffff\nCapEff:\t{set}\nCapBnd:\t0\n");
        let (all, time, but_time, none) =
            (status("000001ffffffffff"), status("2000000"), status("000001fffdffffff"), status("0000000000000000"));
        let (machine, container) = (Some("user:[4026531837]"), Some("user:[4026532209]"));
        for (status, namespace, verdict) in [
            (Some(&*all), machine, "may"),
            (Some(&*time), machine, "may"),
            (Some(&*time), None, "may"),
            (None, None, "may"),
            (Some("nonsense"), machine, "may"),
            (Some(&*but_time), machine, "--clock system needs the capability CAP_SYS_TIME (run as root or grant it)"),
            (Some(&*none), container, "--clock system needs the capability CAP_SYS_TIME (run as root or grant it)"),
            (
                Some(&*all),
                container,
                "--clock system needs the capability CAP_SYS_TIME on the machine itself; a user \
                                      namespace (a rootless container) cannot have it",
            ),
        ] {
            let said = check_privilege(status, namespace).map_or_else(|error| error.to_string(), |()| "may".to_owned());
            assert_eq!(said, verdict, "{status:?} {namespace:?}");
        }
    }

    proptest! {
        #[test]
        fn the_rate_is_bounded_whatever_the_deviation(
            ahead: i64, rate in -600_000_000i64..600_000_000, more in proptest::collection::vec(any::<i64>(), 5),
        ) {
            let kernel = FakeKernel::new();
            let mut clock = SystemClock::new(kernel.clone());
            let rate = Skew::from_ppt(rate);
            for ahead in more.into_iter().chain([ahead]) {
                let time = kernel.pair().system + Span::from_nanos(ahead);
                let frequency = clock.follow(kernel.pair(), Target { time, rate, lasting_rate: rate }, None).unwrap();
                prop_assert!(frequency.abs() <= Skew::from_ppm(500));
                if rate.abs() < Skew::from_ppm(400) {
                    prop_assert!((frequency - rate).abs() <= CATCH_UP_LIMIT + Skew::from_ppt(16));
                }
                kernel.advance(SECOND);
            }
            prop_assert_eq!(kernel.acts(), [Act::TookOver]);
        }
    }
}
