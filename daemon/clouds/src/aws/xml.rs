//! Reading the XML of AWS's query protocol: elements by path, lists by `item`.

use roxmltree::{Document, Node};

use crate::call::Said;

/// The text below `path`, such as `placement/availabilityZone`; empty when it is not there.
pub(super) fn text<'a>(node: Node<'a, '_>, path: &str) -> &'a str {
    let found = path
        .split('/')
        .try_fold(node, |node, name| child(node, name));
    found.and_then(|node| node.text()).unwrap_or("").trim()
}

/// The `item`s of the list `name`.
pub(super) fn items<'a, 'b>(node: Node<'a, 'b>, name: &str) -> Vec<Node<'a, 'b>> {
    let list = child(node, name);
    let children = list.into_iter().flat_map(|list| list.children());
    children
        .filter(|node| node.has_tag_name_local("item"))
        .collect()
}

/// The child called `name`.
pub(super) fn child<'a, 'b>(node: Node<'a, 'b>, name: &str) -> Option<Node<'a, 'b>> {
    node.children().find(|child| child.has_tag_name_local(name))
}

/// Names without their namespace: services differ in it, versions too.
trait Local {
    fn has_tag_name_local(&self, name: &str) -> bool;
}

impl Local for Node<'_, '_> {
    fn has_tag_name_local(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

/// What an error document says, of EC2 (`Response/Errors/Error`) or of any other service
/// (`ErrorResponse/Error`).
pub(super) fn error(body: &str) -> Option<Said> {
    let document = Document::parse(body).ok()?;
    let root = document.root_element();
    let error = match child(root, "Errors") {
        Some(errors) => child(errors, "Error")?,
        None => child(root, "Error")?,
    };
    let request = ["RequestID", "RequestId"].map(|name| text(root, name));
    let request = request.into_iter().find(|id| !id.is_empty());
    Some(Said {
        code: text(error, "Code").to_owned(),
        message: text(error, "Message").to_owned(),
        request: request.unwrap_or("").to_owned(),
    })
}
