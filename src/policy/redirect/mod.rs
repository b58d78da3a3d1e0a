//! Who answers one request: the holders that may, their ranking, and what the server itself has to offer.

pub(super) mod arriving;
pub(super) mod balancer;
pub(super) mod eligible;
pub(super) mod origin;
pub(super) mod recent;
