//! demo
use crate::commands::Failure;
/// demo
pub fn demo() -> Result<(), Failure> {
    Err(Failure::Failed("being built".to_owned()))
}
