//! The workflow of the demo, carried inside the program so that the program alone is enough.

use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::cli::run::Request;

macro_rules! example {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../../examples/terrain/", $path)))),+]
    };
}

const FILES: &[(&str, &[u8])] = example![
    "workflow.yaml",
    "jacksboro.pgm",
    "bin/split.wasm",
    "bin/slope.wasm",
    "bin/hillshade.wasm",
    "bin/contour.wasm",
    "bin/mosaic.wasm",
];

/// The Survey Office keeps its data where it is but for the tiles, which the others work on.
const BINDING: &str = "\
opencloud: binding/v1
strategy: performance
steps:
  split: {orgs: [Survey Office]}
  slope: {orgs: [Harbour Lab]}
  hillshade: {orgs: [Summit Computing]}
  contour: {orgs: [Harbour Lab, Summit Computing]}
  mosaic: {orgs: [Survey Office]}
";

/// The example on disk.
#[derive(Debug)]
pub(super) struct Example {
    dir: PathBuf,
}

/// Writes the example below `dir`.
pub(super) fn write(dir: &Path) -> Result<Example, CliError> {
    let binding = ("binding.yaml", BINDING.as_bytes());
    for (name, bytes) in FILES.iter().copied().chain([binding]) {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(CliError::io(parent))?;
        }
        std::fs::write(&path, bytes).map_err(CliError::io(&path))?;
    }
    Ok(Example { dir: dir.to_owned() })
}

impl Example {
    pub(super) fn request(&self) -> Request {
        Request {
            file: self.dir.join("workflow.yaml"),
            binding: Some(self.dir.join("binding.yaml")),
            area: None,
            strategy: None,
            params: Vec::new(),
            inputs: vec![crate::cli::run::Pair::new("dem", &self.dir.join("jacksboro.pgm"))],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::upload::Sink;

    #[tokio::test]
    async fn the_example_inside_the_program_is_whole_and_its_binding_fits() {
        let dir = tempfile::tempdir().unwrap();
        let request = write(dir.path()).unwrap().request();
        let (workflow, submission) = request.prepare(Sink::Nowhere, None).await.unwrap();
        assert_eq!(workflow.name, "terrain");
        assert_eq!(submission.assets.len(), workflow.asset_paths().len());
        assert!(submission.binding.is_some());
    }
}
