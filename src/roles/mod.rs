//! L4: what the program does, one module per subcommand. Roles do not import each other; what two of them
//! need lives a layer down.

pub mod check;
pub mod demo;
pub mod serve;
pub mod simulate;
pub mod status;
pub mod token;
pub mod verify;
pub mod volunteer;
