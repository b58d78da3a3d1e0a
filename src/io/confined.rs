//! Where systemd confines this service: what it hides looks missing, what it guards looks read-only, and the error says
//! nothing of systemd.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::fs::Access;

/// What ProtectHome= hides, systemd.exec(5).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// The error, and what to do where the confinement explains it.
pub fn explain(path: &Path, error: io::Error) -> io::Error {
    let hint = hint(path, &error);
    if hint.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}{hint}")) }
}

/// Why this is no folder that can be entered, in words.
pub fn no_folder(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => None,
        Ok(_) => Some(format!("{} is not a folder", path.display())),
        Err(e) => Some(format!("{} is not a folder: {}", path.display(), explain(path, e))),
    }
}

/// Makes a folder if need be; fails where nothing can be written into it.
pub fn writable_folder(path: &Path) -> io::Result<()> {
    let made = fs::create_dir_all(path).and_then(|()| Ok(rustix::fs::access(path, Access::WRITE_OK)?));
    made.map_err(|e| explain(path, e))
}

/// What the confinement has to do with an error; empty if nothing.
fn hint(path: &Path, error: &io::Error) -> String {
    // Set for every process of a unit, systemd.exec(5).
    let is_service = std::env::var_os("INVOCATION_ID").is_some();
    if is_service { hint_of(path, error.kind()) } else { String::new() }
}

fn hint_of(path: &Path, kind: ErrorKind) -> String {
    let home = HOMES.iter().find(|home| path.starts_with(home));
    let path = path.display();
    match (kind, home) {
        (ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem, Some(home)) => {
            format!(
                ": systemd hides {home} from this service (ProtectHome=). `systemctl edit` its unit and write \
                 ProtectHome=read-only below [Service], and ReadWritePaths={path} as well if it is to write there"
            )
        }
        (ErrorKind::ReadOnlyFilesystem, None) => format!(
            ": systemd lets this service write to its own folders alone (ProtectSystem=). `systemctl edit` its unit \
             and write ReadWritePaths={path} below [Service]"
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_systemd_does_is_laid_to_it() {
        use ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        for (path, kind, wants) in [
            ("/home/me/mirror", NotFound, "ProtectHome=read-only"),
            ("/root/mirror", PermissionDenied, "ProtectHome=read-only"),
            ("/run/user/1000/x", ReadOnlyFilesystem, "ReadWritePaths=/run/user/1000/x"),
            ("/srv/store", ReadOnlyFilesystem, "ReadWritePaths=/srv/store"),
        ] {
            let hint = hint_of(Path::new(path), kind);
            assert!(hint.contains(wants), "{path}: {hint}");
        }
        for (path, kind) in [
            ("/srv/store", NotFound),
            ("/srv/store", PermissionDenied),
            ("/homes/me", NotFound),
            ("/home/me", ErrorKind::IsADirectory),
        ] {
            assert_eq!(hint_of(Path::new(path), kind), "", "{path}");
        }
    }
}
