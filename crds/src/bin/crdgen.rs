//! Writes the definitions of the four kinds to `crds/generated` and to the templates of `charts/ipsecmesh-crds`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the crate has no parent folder")?;
    for (path, content) in ipsecmesh_crds::generate::files()? {
        let path = root.join(path);
        fs::create_dir_all(path.parent().ok_or("a file has a folder")?)?;
        fs::write(path, content)?;
    }
    Ok(())
}
