//! `shoal certs`: a self-signed certificate for servers that want one in files.

use std::path::Path;

use serde_json::json;
use shoal_store::durable;

use crate::exit::Failure;
use crate::output::Output;

const ALWAYS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Writes `server.key` (mode 0600) and `server.crt` into `dir`.
pub(crate) fn run(
    dir: &Path,
    names: Vec<String>,
    overwrite: bool,
    output: &Output,
) -> Result<(), Failure> {
    let (key, certificate) = (dir.join("server.key"), dir.join("server.crt"));
    for file in [&key, &certificate] {
        if file.exists() && !overwrite {
            let text = format!(
                "{} is already there: keep using it, or replace it with --overwrite",
                file.display()
            );
            return Err(Failure::new(crate::exit::Code::TargetExists, text));
        }
    }
    let names: Vec<String> = ALWAYS.into_iter().map(str::to_owned).chain(names).collect();
    let (certificate_pem, key_pem) = shoal_link::self_signed(&names)
        .map_err(|error| Failure::new(crate::exit::Code::Usage, error.to_string()))?;
    for (file, pem, mode) in [
        (&key, &key_pem, 0o600),
        (&certificate, &certificate_pem, 0o644),
    ] {
        durable::write_file(file, pem.as_bytes(), mode)
            .map_err(|error| Failure::local(format!("cannot write {}: {error}", file.display())))?;
    }
    let fields = json!({ "key": key, "certificate": certificate, "names": names });
    output.event("certificate", fields, || {
        format!(
            "wrote {} (keep it secret) and {} for {}",
            key.display(),
            certificate.display(),
            names.join(", ")
        )
    });
    Ok(())
}
