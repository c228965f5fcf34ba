/** The CUDA kernels as one text, which kernels.ptx is made of: a file may use what those before it define. */

const FILES = ["common.cu", "blocks.cu", "decoder.cu", "text.cu", "loop.cu"];

/** All of them, one after the other. */
export async function kernelSource(): Promise<string> {
  const texts = FILES.map((file) => Deno.readTextFile(new URL(file, import.meta.url)));
  return (await Promise.all(texts)).join("\n");
}

/** SHA-256 of a text, in hexadecimal. */
export async function sha256(text: string): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))).toHex();
}
