//! L0: the words of the system as types. Digests, blobs, volunteers, repository paths, sizes, rates, time.
//!
//! No I/O, no clock, no entropy. Everything here is a small value that every other layer may use.

mod blob;
mod digest;
mod edge;
mod hexcode;
mod path;
mod pieces;
mod quantity;
mod time;
mod volunteer;

pub use blob::{Alternatives, Blob, BlobId, Expected};
pub use digest::{Algorithm, Digest, Digests, ParseDigestError};
pub use edge::{EdgeStatus, Notice, OrdersStatus, Seen, TreeStatus};
pub use path::{PathError, RepoPath, encode as encode_path};
pub use pieces::Pieces;
pub use quantity::{ParseQuantityError, Rate, Size};
pub use time::Time;
pub use volunteer::{ParseVolunteerIdError, VolunteerId};
