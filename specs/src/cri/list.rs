//! Lists whose entries may be encoded already: who keeps a thousand of them writes each from where it lies, and copies none.

use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use prost::{DecodeError, Message};

use super::{Container, PodSandbox};

/// The only field of both lists.
pub const ENTRIES: u32 = 1;

macro_rules! list {
    ($(#[$meaning:meta])* $name:ident of $entry:ty as $entries:ident) => {
        $(#[$meaning])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            pub $entries: Vec<$entry>,
            /// More entries, each with its key and length as it goes over the wire. Empty in what was received.
            pub encoded: Vec<u8>,
        }

        impl Message for $name {
            fn encode_raw(&self, buffer: &mut impl BufMut) {
                message::encode_repeated(ENTRIES, &self.$entries, buffer);
                buffer.put_slice(&self.encoded);
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buffer: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                match tag {
                    ENTRIES => message::merge_repeated(wire_type, &mut self.$entries, buffer, context),
                    _ => skip_field(wire_type, tag, buffer, context),
                }
            }

            fn encoded_len(&self) -> usize {
                message::encoded_len_repeated(ENTRIES, &self.$entries) + self.encoded.len()
            }

            fn clear(&mut self) {
                self.$entries.clear();
                self.encoded.clear();
            }
        }
    };
}

list! {
    /// What `ListContainers` answers.
    ListContainersResponse of Container as containers
}

list! {
    /// What `ListPodSandbox` answers.
    ListPodSandboxResponse of PodSandbox as items
}
