//! Sources that need no server of their own.

mod chain;
mod file;
mod fixed;
mod form;
mod func;
mod watch;

pub use chain::{Chain, InForce};
pub use file::FileSource;
pub use fixed::StaticSource;
pub use form::LoginForm;
pub use func::FnSource;
pub use watch::{Contents, FileWatch};
