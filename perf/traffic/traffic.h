// What guest.c and peer.c agree on. A stream's first byte, from the guest, says what it is for.
#pragma once

enum {
  kPort = 5001,     // of TCP, UDP and vsock
  kChunk = 131072,  // what is read and written at once
  kPacket = 64,     // the data of a UDP packet

  kSink = 's',    // the peer takes bytes until the end, and then says how many in 8 bytes
  kSource = 'g',  // the peer sends until the guest closes
  kEcho = 'e',    // each byte comes back
  kCount = 'u',   // the peer says in 8 bytes how many UDP packets came, and again for each byte it gets
};
