import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.IOException;

/** A model on the GPU; one thread at a time. Its native half is pumice_jni.c. */
public final class Pumice implements AutoCloseable {
    /** Takes an answer piece by piece; false ends it. */
    public interface Listener {
        boolean onText(String text);
    }

    private interface Taker {
        boolean take(byte[] utf8);
    }

    static {
        System.loadLibrary("pumice_jni");
    }

    private long handle;

    /** model: a path, or "fd:" + ParcelFileDescriptor.getFd() for a .gguf file that a person picked; close it afterwards. */
    public Pumice(String model) throws IOException {
        handle = open(model.getBytes(UTF_8));
    }

    /** temperature 0: always the likeliest token. Comes back when the answer has ended. */
    public void answer(String prompt, float temperature, long seed, Listener listener) throws IOException {
        answer(handle, prompt.getBytes(UTF_8), temperature, seed, utf8 -> listener.onText(new String(utf8, UTF_8)));
    }

    @Override
    public void close() {
        if (handle != 0)
            close(handle);
        handle = 0;
    }

    private static native long open(byte[] model) throws IOException;

    private static native void answer(long handle, byte[] prompt, float temperature, long seed, Taker taker) throws IOException;

    private static native void close(long handle);
}
