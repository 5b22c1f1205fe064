//! Where randomness comes from, so that tests can choose it.

use aws_lc_rs::rand;

/// Where randomness comes from.
#[derive(Clone, Copy, Debug)]
pub enum Chance {
    /// The system's generator.
    System,
    /// Always this: for tests.
    Fixed(u32),
}

impl Chance {
    /// A number, each as likely as any other.
    #[must_use]
    pub fn draw(self) -> u32 {
        match self {
            Self::Fixed(number) => number,
            Self::System => {
                let mut bytes = [0; 4];
                // Without randomness everybody would come at the same time, which is no reason to stop.
                if rand::fill(&mut bytes).is_err() {
                    return u32::MAX / 2;
                }
                u32::from_ne_bytes(bytes)
            }
        }
    }
}
