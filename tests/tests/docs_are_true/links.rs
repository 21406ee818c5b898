//! Links within the repository lead somewhere. Those to other hosts are not followed.

use crate::{none, pages, repository};

#[test]
fn every_link_leads_somewhere() {
    let mut problems = Vec::new();
    for page in pages::all() {
        for (line, link) in &page.links {
            if let Err(problem) = check(&page.path, link) {
                problems.push(format!("{}:{line}: {link}: {problem}", page.path));
            }
        }
    }
    none(problems);
}

fn check(page: &str, link: &str) -> Result<(), &'static str> {
    // To an item of the API: rustdoc's to check, in what it is shown.
    let item = link.contains("::") || link.starts_with("crate") || link.starts_with("self");
    if item || link.starts_with("https://") || link.starts_with("http://") {
        return Ok(());
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(p, a)| (p, Some(a)));
    let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
    let target = match path {
        "" => page.to_owned(),
        path => repository::resolve(folder, path).ok_or("leads out of the repository")?,
    };
    if !repository::root().join(&target).exists() {
        return Err("no such file");
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let known =
        pages::all().iter().find(|page| page.path == target).ok_or("an anchor in no page")?;
    if known.anchors.iter().any(|a| a == anchor) { Ok(()) } else { Err("no such heading") }
}

#[test]
fn a_dead_link_is_told() {
    assert_eq!(check("docs/auth.md", "../README.md#use-it"), Ok(()));
    assert_eq!(check("docs/auth.md", "../README.md#nonsense"), Err("no such heading"));
    assert_eq!(check("docs/auth.md", "nonsense.md"), Err("no such file"));
    assert_eq!(check("docs/auth.md", "../../x"), Err("leads out of the repository"));
}
