//! `shoal contacts`: the people whose nodes this user knows.

use std::path::PathBuf;

use serde_json::json;
use shoal_node::contacts::{Contact, Contacts};
use shoal_node::state::StateDir;
use shoal_wire::NodeName;

use crate::args::ContactOrder;
use crate::exit::{Code, Failure};
use crate::output::{Output, size, table};

/// Runs the command.
pub(super) fn run(
    state_dir: Option<PathBuf>,
    what: Option<ContactOrder>,
    output: &Output,
) -> Result<(), Failure> {
    let state = StateDir::open(state_dir.as_deref(), "peer")?;
    let mut contacts = Contacts::load(&state)?;
    match what {
        None => {
            list(&contacts, output);
            return Ok(());
        }
        Some(ContactOrder::Add { name, node }) => {
            let kept = contacts.keep(name.clone(), node);
            let node = kept.map_err(|error| Failure::new(Code::NotFound, error.to_string()))?;
            let fields = json!({ "name": name.to_string(), "node": node.to_string() });
            output.event("contact", fields, || format!("{name} is {node}"));
        }
        Some(ContactOrder::Remove { name }) => {
            if !contacts.forget(&name) {
                return Err(unknown(&name));
            }
        }
        Some(ContactOrder::Accept { name, folder, max }) => {
            let folder = folder.map(std::path::absolute).transpose();
            let folder = folder.map_err(|error| Failure::local(error.to_string()))?;
            let contact = find(&mut contacts, &name)?;
            (contact.accept, contact.folder, contact.max) = (true, folder, max);
        }
        Some(ContactOrder::Ask { name }) => find(&mut contacts, &name)?.accept = false,
    }
    Ok(contacts.save(&state)?)
}

fn find<'a>(contacts: &'a mut Contacts, name: &NodeName) -> Result<&'a mut Contact, Failure> {
    let known = contacts.contacts.iter_mut();
    let mut named = known.filter(|contact| contact.name == *name);
    named.next().ok_or_else(|| unknown(name))
}

/// Nobody is called so.
pub(crate) fn unknown(name: &NodeName) -> Failure {
    let text = format!(
        "{name} is no contact: 'shoal contacts' shows who is, 'shoal contacts add' keeps whom you met"
    );
    Failure::new(Code::NotFound, text)
}

fn list(contacts: &Contacts, output: &Output) {
    for contact in &contacts.contacts {
        let fields = json!({
            "name": contact.name.to_string(),
            "node": contact.node.to_string(),
            "accept": contact.accept,
            "folder": contact.folder,
            "max": contact.max,
        });
        output.machine("contact", fields);
    }
    let strangers: Vec<_> = contacts
        .met
        .iter()
        .rev()
        .filter(|met| contacts.of_node(&met.node).is_none())
        .collect();
    for met in &strangers {
        let fields = json!({
            "name": met.name.to_string(),
            "node": met.node.to_string(),
            "at": met.at,
        });
        output.machine("met", fields);
    }
    if output.is_json() {
        return;
    }
    let mut rows: Vec<Vec<String>> = contacts
        .contacts
        .iter()
        .map(|contact| {
            let rule = match (contact.accept, contact.max) {
                (true, Some(max)) => format!("accepted up to {}", size(max)),
                (true, None) => "accepted".to_owned(),
                (false, _) => "asked for".to_owned(),
            };
            vec![contact.name.to_string(), contact.node.short(), rule]
        })
        .collect();
    rows.extend(strangers.iter().map(|met| {
        let hint = "met, not kept ('shoal contacts add')".to_owned();
        vec![met.name.to_string(), met.node.short(), hint]
    }));
    output.event("contacts", json!({}), || {
        if rows.is_empty() {
            "Nobody yet: whom you send to or receive from appears here.".to_owned()
        } else {
            table(&rows)
        }
    });
}
