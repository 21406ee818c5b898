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
        (
            machine: $($(#[doc = $what:literal])+ $name:ident: $invariant:literal,)+
            driver: $($(#[doc = $doing:literal])+ $driver:ident: $upheld:literal,)+
        ) => {
            /// A mechanism that can be broken.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub enum Mutation {
                $($(#[doc = $what])+ $name,)+
                $($(#[doc = $doing])+ $driver,)+
            }

            impl Mutation {
                /// All that are of the machine.
                pub const ALL: &[Self] = &[$(Self::$name,)+];
                /// All that are of the driver.
                pub const DRIVER: &[Self] = &[$(Self::$driver,)+];

                /// The invariant that the mechanism upholds.
                #[must_use]
                pub const fn invariant(self) -> &'static str {
                    match self {
                        $(Self::$name => $invariant,)+
                        $(Self::$driver => $upheld,)+
                    }
                }

                /// What is done instead.
                #[must_use]
                pub const fn what(self) -> &'static str {
                    match self {
                        $(Self::$name => concat!($($what,)+),)+
                        $(Self::$driver => concat!($($doing,)+),)+
                    }
                }
            }
        };
    }

    mutations! {
        machine:
        /// a swap raises the number by two
        SkipsNumbers: "I1",
        /// the drain is ordered before the swap
        DrainsBeforeTheSwap: "I1",
        /// a login that is gone is rolled like any other
        RollsWhatIsGone: "I2",
        /// the roll lasts as long as the drain
        RollsForTheWholeGrace: "I2",
        /// a drain ends with its roll
        DrainsWithoutGrace: "I3",
        /// what was superseded is revoked at once
        RevokesUndrained: "I4",
        /// a candidate is swapped to without a proof
        SwapsUnproven: "I5",
        /// a candidate that every pool refuses is swapped to
        SwapsToRefused: "I5",
        /// at the end of a lease its connections are given up
        DistrustsAtTheEnd: "I6",
        /// after a mint that failed nothing is tried again
        GivesUp: "I6",
        /// what a replica that lags refuses is given up at once
        TakesLagForRefusal: "I6",
        /// every mint is permitted
        MintsWithoutPermit: "I7",
        /// a third request to mint is sent while two hang
        MintsTooMany: "I7",
        /// a credential that comes late is dropped and not revoked
        DropsLateMints: "I7",
        /// a lease that seems over is forgotten and not revoked
        ForgetsWhatSeemsOver: "I7",
        /// a lease is taken to live on without its token
        IgnoresTheToken: "I8",
        /// a shutdown neither waits for revocations nor reports them
        WaitsForNoRevocation: "I9",
        /// a shutdown finishes while drains run
        FinishesOverDrains: "I9",
        /// a shutdown forgets mints that hang
        ForgetsMints: "I9",
        /// a failed mint sets no timer
        ForgetsItsTimer: "I11",
        /// a lease's end is counted from the answer
        CountsFromTheAnswer: "I12",

        driver:
        /// a credential that came in after the driver's end is not revoked
        KeepsLateMints: "I7LateCredentialsAreRevoked",
        /// a generation is published before the pools have it
        PublishesBeforeInstalling: "I1NewMeansCurrent",
        /// pools are installed without the swap lock
        SwapsWithoutTheLock: "I1AttachedUnderTheSwapLock",
        /// a panic of the driver ends it
        RestartsNoMore: "I11SurvivesAPanic",
        /// a mint is a task of the driver's, and cut off with it
        CutsMintsOff: "I7MintsRunToTheirEnd",
        /// what changes is not published to health
        PublishesNoStatus: "I11HealthIsFresh",
        /// the end of the driver is told to nobody
        EndsInSilence: "I11NeverSilent",
        /// the tasks of the driver are left to themselves
        LeavesTasks: "I9NoTaskIsLeft",
        /// subscribers are not woken by a swap
        WakesNoSubscriber: "I11NeverSilent",
        /// a lease that a shutdown had to leave is not reported
        ReportsNothing: "I9ReportIsExact",
        /// a panic of the source goes unanswered
        AnswersNoPanic: "I9NoTaskIsLeft",
    }
}
