//! Mechanisms broken on purpose, so that the simulation shows that it would notice. In a normal
//! build [`broken!`] is `false`, and nothing of this is there.

#[cfg(not(feature = "simulation"))]
macro_rules! broken {
    ($mechanism:ident) => {
        false
    };
}

/// The simulation has broken this mechanism.
#[cfg(feature = "simulation")]
macro_rules! broken {
    ($mechanism:ident) => {
        $crate::machine::broken::is_broken($crate::machine::broken::Mutation::$mechanism)
    };
}

#[cfg(feature = "simulation")]
pub use mutations::*;

#[cfg(feature = "simulation")]
mod mutations {
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Breaks a mechanism of all machines of this thread; `None` mends it.
    pub fn break_mechanism(mutation: Option<Mutation>) {
        BROKEN.set(mutation);
    }

    pub(crate) fn is_broken(mutation: Mutation) -> bool {
        BROKEN.get() == Some(mutation)
    }

    macro_rules! mutations {
        ($($(#[doc = $what:literal])+ $name:ident: $invariant:literal,)+) => {
            /// A mechanism that can be broken.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub enum Mutation {
                $($(#[doc = $what])+ $name,)+
            }

            impl Mutation {
                /// All there are.
                pub const ALL: &[Self] = &[$(Self::$name,)+];

                /// The invariant that the mechanism upholds.
                #[must_use]
                pub const fn invariant(self) -> &'static str {
                    match self {
                        $(Self::$name => $invariant,)+
                    }
                }

                /// What is done instead.
                #[must_use]
                pub const fn what(self) -> &'static str {
                    match self {
                        $(Self::$name => concat!($($what,)+),)+
                    }
                }
            }
        };
    }

    mutations! {
        /// The drain begins before the swap.
        DrainBeforePublish: "I1",
    }
}
