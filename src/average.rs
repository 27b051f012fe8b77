//! The averaging functions (being written).
/// Which averaging function a master uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Average {
    /// Every clock, equally.
    Mean,
    /// The largest set of clocks that agree.
    #[default]
    FaultTolerant,
    /// The middle of what is left without the extremes.
    Midpoint,
    /// By weight, or by inverse variance.
    Weighted,
}
