//! The pages, and what is on them.

use std::sync::LazyLock;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::repository;

/// A document in Markdown.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
    /// (line, where to)
    pub(crate) links: Vec<(usize, String)>,
    /// What a link can name after `#`.
    pub(crate) anchors: Vec<String>,
    /// (line, code within a sentence)
    pub(crate) spans: Vec<(usize, String)>,
}

/// A block of code.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) line: usize,
    /// Its language and what else stands behind the fence; none for an indented block.
    pub(crate) info: Option<String>,
    pub(crate) text: String,
    /// `run: …` or `same: …`, from the comment right before it.
    pub(crate) marker: Option<String>,
}

impl Block {
    pub(crate) fn language(&self) -> &str {
        self.info.as_deref().unwrap_or("").split([',', ' ']).next().unwrap_or("")
    }
}

/// All of them.
pub(crate) fn all() -> &'static [Page] {
    static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
        let pages = repository::files().iter().filter(|file| file.ends_with(".md"));
        pages.map(|path| Page::parse(path, &repository::read(path))).collect()
    });
    &PAGES
}

/// One of them.
pub(crate) fn page(path: &str) -> &'static Page {
    all().iter().find(|page| page.path == path).unwrap_or_else(|| panic!("there is no {path}"))
}

impl Page {
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        let (mut block, mut heading): (Option<Block>, Option<String>) = (None, None);
        let mut comment = None;
        let extensions = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES;
        for (event, at) in Parser::new_ext(text, extensions).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => Some(info.to_string()),
                        CodeBlockKind::Indented => None,
                    };
                    let (line, marker) = (line_of(at.start), comment.take());
                    block = Some(Block { line, info, text: String::new(), marker });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap());
                    let same = page.anchors.iter().filter(|known| **known == slug).count();
                    page.anchors.push(if same == 0 { slug } else { format!("{slug}-{same}") });
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((line_of(at.start), dest_url.to_string()));
                }
                Event::Text(words) => match (&mut block, &mut heading) {
                    (Some(block), _) => block.text.push_str(&words),
                    (None, Some(heading)) => heading.push_str(&words),
                    (None, None) => {}
                },
                Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    page.spans.push((line_of(at.start), words.to_string()));
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    for attribute in ["href=\"", "src=\"", "srcset=\"", "id=\""] {
                        for rest in html.split(attribute).skip(1) {
                            let value = rest.split('"').next().unwrap().to_owned();
                            match attribute {
                                "id=\"" => page.anchors.push(value),
                                _ => page.links.push((line_of(at.start), value)),
                            }
                        }
                    }
                    let inside =
                        html.trim().strip_prefix("<!--").and_then(|s| s.strip_suffix("-->"));
                    let marker = inside.map(str::trim);
                    comment = marker
                        .filter(|m| m.starts_with("run: ") || m.starts_with("same: "))
                        .map(str::to_owned);
                    continue;
                }
                Event::End(TagEnd::HtmlBlock) => continue,
                _ => {}
            }
            comment = None;
        }
        page
    }

    /// The blocks that are marked as run by the test `name`, in order: as many as it takes, so that
    /// one that is added is not one that nobody runs.
    pub(crate) fn run<const N: usize>(&self, name: &str) -> [&Block; N] {
        let found = self.run_all(name);
        let count = found.len();
        found.try_into().unwrap_or_else(|_| panic!("{name} takes {N} blocks, not {count}"))
    }

    /// Those blocks, for a test that takes each. There has to be one.
    pub(crate) fn run_all(&self, name: &str) -> Vec<&Block> {
        let marker = format!("run: {name}");
        let found = self.blocks.iter().filter(|b| b.marker.as_ref() == Some(&marker));
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "{} has no block marked <!-- {marker} -->", self.path);
        found
    }
}

/// What a forge and rustdoc make of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn a_page_is_read_as_a_reader_sees_it() {
    let text = "# A *b* `c`: d\n\n<!-- run: x -->\n```sh\nls\n```\n\n    indented\n\n[l](m.md#n) `S`\n\n\
                <!-- run: y -->\ntext\n\n```\nbare\n```\n\n## A b c d\n";
    let page = Page::parse("p.md", text);
    let blocks: Vec<_> = page
        .blocks
        .iter()
        .map(|b| (b.line, b.info.as_deref(), b.text.as_str(), b.marker.as_deref()))
        .collect();
    assert_eq!(blocks[0], (4, Some("sh"), "ls\n", Some("run: x")));
    assert_eq!(blocks[1], (8, None, "indented\n", None));
    assert_eq!((blocks[2].1, blocks[2].3), (Some(""), None), "a marker is for the next block only");
    assert_eq!(page.anchors, ["a-b-c-d", "a-b-c-d-1"]);
    assert_eq!(page.links, [(10, "m.md#n".to_owned())]);
    assert_eq!(page.spans.last().unwrap().1, "S");
}
