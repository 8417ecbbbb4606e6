//! What the kernel answered, with its own words where it gave any.

use std::fmt;
use std::io;

/// `ENOENT`: no such policy.
const ENOENT: i32 = 2;
/// `ESRCH`: no such SA.
const ESRCH: i32 = 3;
/// `EPERM`: no CAP_NET_ADMIN.
const EPERM: i32 = 1;
/// `EEXIST`: the SPI or the selector is taken.
const EEXIST: i32 = 17;
/// `ENOSYS`: the kernel does not know the algorithm.
const ENOSYS: i32 = 38;
/// `EPROTONOSUPPORT`: the kernel has no such transform.
const EPROTONOSUPPORT: i32 = 93;

/// One request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XfrmError {
    operation: &'static str,
    errno: i32,
    detail: Option<String>,
}

impl XfrmError {
    pub(crate) fn new(operation: &'static str, errno: i32, detail: Option<String>) -> Self {
        Self {
            operation,
            errno,
            detail,
        }
    }

    pub(crate) fn from_io(operation: &'static str, error: &io::Error) -> Self {
        // An error without an errno is one that the standard library made itself; its text says all.
        let detail = error.raw_os_error().is_none().then(|| error.to_string());
        Self::new(operation, error.raw_os_error().unwrap_or(0), detail)
    }

    /// The errno; 0 when the failure did not come from the kernel.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The kernel's own words (extended acknowledgement).
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The object is there already.
    pub fn exists(&self) -> bool {
        self.errno == EEXIST
    }

    /// There is no such object.
    pub fn missing(&self) -> bool {
        matches!(self.errno, ENOENT | ESRCH)
    }

    /// CAP_NET_ADMIN is missing.
    pub fn permission(&self) -> bool {
        self.errno == EPERM
    }

    /// The kernel does not know the algorithm.
    pub fn unknown_algorithm(&self) -> bool {
        self.errno == ENOSYS
    }

    /// The kernel has no such transform (ESP).
    pub fn unknown_transform(&self) -> bool {
        self.errno == EPROTONOSUPPORT
    }
}

impl fmt::Display for XfrmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for XfrmError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_operation_errno_and_the_kernels_words() {
        let error = XfrmError::new(
            "add SA",
            ENOSYS,
            Some("Requested AEAD algorithm not found".into()),
        );
        assert_eq!(
            error.to_string(),
            "add SA: Function not implemented (os error 38): Requested AEAD algorithm not found"
        );
        assert!(error.unknown_algorithm());
        assert!(!error.exists());
    }

    #[test]
    fn an_error_without_errno_keeps_its_text() {
        let error = XfrmError::from_io("dump policies", &io::Error::other("the dump was interrupted"));
        assert_eq!(error.to_string(), "dump policies: the dump was interrupted");
    }
}
