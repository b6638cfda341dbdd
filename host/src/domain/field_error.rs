//! What is wrong with a body, and where.

/// One thing that is wrong with a body.
///
/// ```
/// use postrider::SubmitError;
///
/// fn print(error: &SubmitError) {
///     if let SubmitError::Invalid(problems) = error {
///         for problem in problems {
///             println!("{}: {}", problem.pointer, problem.detail);
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the place.
    pub pointer: String,
    /// What is wrong there and what is expected.
    pub detail: String,
}

impl FieldError {
    /// At a pointer; the empty one is the whole body.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// The JSON pointer to a field of the body.
pub fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}
