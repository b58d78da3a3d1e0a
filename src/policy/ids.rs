//! Numbers that the policy gives to what it keeps in tables.

/// Index of a volunteer in the tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNo(pub(in crate::policy) u32);

impl NodeNo {
    /// Counts from 0, in the order of first joining.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which release a gate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReleaseNo(pub(in crate::policy) u64);

#[cfg(test)]
pub(in crate::policy) fn node_no(number: u32) -> NodeNo {
    NodeNo(number)
}
