//! Documents from disk: read within bounds, and their problems told with file, line and column.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use scheduler::binding::Binding;
use scheduler::service::Document as Service;
use scheduler::workflow::{
    Artefact, Asset, AssetKind, DOCUMENT_LEN_MAX, Diagnostic, Diagnostics, ProgramDecl, Step,
    Workflow,
};

use super::error::{CliError, Place};
use super::run::disk_image;
use crate::engine::images::name::ImageName;

/// Reads a text of at most one document's length. One byte more is read, so that the parser sees that it is too long.
pub(crate) fn read_text(path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(CliError::io(path))?;
    file.take(DOCUMENT_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(CliError::io(path))?;
    String::from_utf8(bytes)
        .map_err(|_| CliError::BadPath { path: path.to_owned(), reason: "it is not UTF-8 text" })
}

/// A document that says what to run, with the files it names.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) source: String,
    pub(crate) workflow: Workflow,
    /// Where paths in the document begin.
    dir: PathBuf,
}

impl From<Diagnostic> for Place {
    fn from(found: Diagnostic) -> Self {
        let Diagnostic { line, column, path, problem, hint } = found;
        Self { line, column, path, problem: problem.to_string(), hint }
    }
}

/// What is wrong with a document, as an error.
pub(crate) fn refuse(file: &Path, places: Vec<Place>) -> CliError {
    CliError::Document { path: file.to_owned(), places }
}

pub(crate) fn places(Diagnostics(found): Diagnostics) -> Vec<Place> {
    found.into_iter().map(Place::from).collect()
}

impl Document {
    /// Reads a workflow and looks whether the files it names are there.
    ///
    /// The inner error is what is wrong with it.
    pub(crate) fn check(file: &Path) -> Result<Result<Self, Vec<Place>>, CliError> {
        let source = read_text(file)?;
        let workflow = Workflow::parse(&source);
        Ok(Self::with(file, source, workflow))
    }

    /// Reads a service document and looks whether the files it names are there. Its workflow is the one step that a replica
    /// is.
    pub(crate) fn read_service(file: &Path) -> Result<Self, CliError> {
        let source = read_text(file)?;
        let workflow = Service::parse(&source).map(|service| service.workflow());
        Self::with(file, source, workflow).map_err(|places| refuse(file, places))
    }

    fn with(
        file: &Path,
        source: String,
        workflow: Result<Workflow, Diagnostics>,
    ) -> Result<Self, Vec<Place>> {
        let workflow = workflow.map_err(places)?;
        let dir = match file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let document = Self { source, workflow, dir };
        let missing: Vec<Place> = document
            .workflow
            .asset_paths()
            .iter()
            .filter_map(|asset| document.missing(asset))
            .collect();
        if missing.is_empty() { Ok(document) } else { Err(missing) }
    }

    /// Reads a workflow.
    pub(crate) fn read(file: &Path) -> Result<Self, CliError> {
        Self::check(file)?.map_err(|places| refuse(file, places))
    }

    /// Where a file that the document names lies.
    pub(crate) fn path(&self, asset: &Asset) -> PathBuf {
        self.dir.join(&asset.path)
    }

    /// The image that is meant where a step's image is no directory beside the document: `REPOSITORY:TAG`, with the tag said,
    /// so that a misspelt path is no image.
    pub(crate) fn image(&self, asset: &Asset) -> Option<ImageName> {
        let is_image = |step: &Step| {
            let ProgramDecl::Container { image, .. } = &step.run.program else { return false };
            matches!(image, Artefact::Path(path) if *path == asset.path)
        };
        let may_be = asset.path.contains(':')
            && self.workflow.steps.iter().any(is_image)
            && !self.path(asset).exists();
        asset.path.parse().ok().filter(|_| may_be)
    }

    fn missing(&self, asset: &Asset) -> Option<Place> {
        if self.image(asset).is_some() {
            return None;
        }
        let path = self.path(asset);
        let (is_there, what) = match asset.kind {
            AssetKind::File if disk_image(&path, &asset.path).is_some() => return None,
            AssetKind::File => (path.is_file(), "file"),
            AssetKind::Dir => (path.is_dir(), "directory"),
        };
        (!is_there).then(|| Place {
            line: asset.line,
            column: asset.column,
            path: String::new(),
            problem: format!("there is no {what} `{}`", path.display()),
            hint: Some("paths begin at the directory of the document".to_owned()),
        })
    }

    /// Reads a binding for the workflow. Returns its text, or what is wrong with it.
    pub(crate) fn check_binding(
        &self,
        file: &Path,
    ) -> Result<Result<String, Vec<Place>>, CliError> {
        let source = read_text(file)?;
        Ok(match Binding::parse(&source, &self.workflow) {
            Ok(_) => Ok(source),
            Err(found) => Err(places(found)),
        })
    }

    /// Reads a binding for the workflow. Returns its text.
    pub(crate) fn read_binding(&self, file: &Path) -> Result<String, CliError> {
        self.check_binding(file)?.map_err(|places| refuse(file, places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_image_with_its_tag_said_is_a_name() {
        let document = |image: &str| {
            let source = format!(
                "opencloud: workflow/v1\nname: w\nsteps:\n  s:\n    run: {{container: {{image: '{image}'}}}}\n"
            );
            let workflow = Workflow::parse(&source).unwrap();
            Document { source, workflow, dir: PathBuf::from("/nonexistent") }
        };
        for (image, is_name) in
            [("debian:1", true), ("a/b:c", true), ("debian", false), ("a:b:c", false)]
        {
            let document = document(image);
            let [asset] = &document.workflow.asset_paths()[..] else { panic!("one image") };
            assert_eq!(document.image(asset).is_some(), is_name, "{image}");
            assert_eq!(document.missing(asset).is_none(), is_name, "{image}");
        }
    }
}
