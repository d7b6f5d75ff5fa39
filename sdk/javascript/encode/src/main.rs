//! `encode CORE.wasm COMPONENT.wasm`: makes a component of the runtime's core module. What the component imports and exports is in the
//! core module already, in the custom section that wit-bindgen wrote.

use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [core, component] = arguments.as_slice() else {
        return Err("usage: encode CORE.wasm COMPONENT.wasm".into());
    };
    let module = fs::read(core)?;
    let encoded = wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    fs::write(component, encoded)?;
    Ok(())
}
