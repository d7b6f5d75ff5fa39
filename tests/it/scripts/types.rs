//! `koksmat.d.ts`: what editors and the TypeScript compiler say of a handler is what it finds when it runs.

use std::path::Path;

use koksmat_tests::{clients::tsc, process::koksmat, repository};

/// A checker as strict as it gets, which knows the language, the handlers of this folder, and nothing of browsers or Node.
const STRICT: &[&str] = &[
    "--noEmit",
    "--strict",
    "--noUncheckedIndexedAccess",
    "--exactOptionalPropertyTypes",
    "--noImplicitOverride",
    "--target",
    "es2024",
    "--lib",
    "es2024,esnext.iterator,esnext.collection",
    "--module",
    "esnext",
    "--moduleResolution",
    "bundler",
    "--allowImportingTsExtensions",
];

async fn checked(more: &[&str], files: &[&Path]) {
    let declarations = repository().join("sdk/javascript/koksmat.d.ts");
    let files = files.iter().chain([&declarations.as_path()]).map(|file| file.to_str().unwrap()).collect::<Vec<_>>();
    if let Err(complaints) = tsc(&[STRICT, more, &files].concat()).await {
        panic!("{complaints}");
    }
}

#[tokio::test]
async fn a_sample_that_uses_everything_passes_and_every_mistake_in_it_is_seen() {
    // Lines marked `@ts-expect-error` are errors, or the compiler complains.
    let types = repository().join("tests/clients/types");
    checked(&[], &[&types.join("everything.ts"), &types.join("mistakes.ts")]).await;
}

#[tokio::test]
async fn handlers_in_the_examples_are_of_these_types() {
    let mut files = Vec::new();
    let mut folders = vec![repository().join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with("data") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ts") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty());
    checked(&[], &files.iter().map(|file| file.as_path()).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_koksmat_new_makes_is_right_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    for language in ["javascript", "typescript"] {
        let made = koksmat(folder.path(), &["new", language, "--language", language]).await;
        assert_eq!(made.code, Some(0), "{}", made.log.join("\n"));
        let project = folder.path().join(language);
        // With the settings it came with, as an editor does.
        let settings = if language == "typescript" { "tsconfig.json" } else { "jsconfig.json" };
        if let Err(complaints) = tsc(&["--noEmit", "--project", project.join(settings).to_str().unwrap()]).await {
            panic!("{language}: {complaints}");
        }
        let checked = koksmat(&project, &["check"]).await;
        assert_eq!(checked.code, Some(0), "{}", checked.log.join("\n"));
        // The settings are in force: what is not here is seen in the editor.
        let handler = project.join("handlers").join(if language == "typescript" { "hello.ts" } else { "hello.js" });
        let source = std::fs::read_to_string(&handler).unwrap();
        std::fs::write(&handler, source.replace("if (!name)", "setTimeout(() => {}, 1);\n  if (!name)")).unwrap();
        let complaints = tsc(&["--noEmit", "--project", project.join(settings).to_str().unwrap()]).await.unwrap_err();
        assert!(complaints.contains("setTimeout"), "{complaints}");
    }
}
