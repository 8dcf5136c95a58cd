/** Outside Android: java -Djava.library.path=. Answer MODEL PROMPT [PIECES], which ends the answer after so many pieces. */
public final class Answer {
    public static void main(String[] args) throws Exception {
        int[] left = {args.length > 2 ? Integer.parseInt(args[2]) : Integer.MAX_VALUE};
        try (Pumice model = new Pumice(args[0])) {
            model.answer(args[1], 0, 1, text -> {
                System.out.print(text);
                System.out.flush();
                return --left[0] > 0;
            });
        }
        System.out.println();
    }
}
