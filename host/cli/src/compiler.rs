//! The compiler of plugin files: this program, started once more for each file.

use postrider::CompilerProgram;

/// The command that makes a compiler of this program.
pub(crate) const COMMAND: &str = "compile-plugin";

/// How the host starts it; none: plugin files are compiled on threads of the host.
pub(crate) fn program() -> Option<CompilerProgram> {
    CompilerProgram::this_program([COMMAND])
        .inspect_err(|error| {
            tracing::warn!(%error, "this program cannot be found: plugins are compiled in its process");
        })
        .ok()
}
